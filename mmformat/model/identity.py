"""The identity of an item: a digest of its content, and the numbers that engines derive."""

from __future__ import annotations

import hashlib
import struct
from typing import Any, Final, Literal, TypeAlias, cast

import numpy as np
from blake3 import blake3

from mmformat.errors import ModelError
from mmformat.model.dictionary import DictionaryTensor
from mmformat.model.item import ContentIdentity, MultimodalDataItem
from mmformat.model.tensors import is_tensor, is_torch, tensor_buffer, tensor_spec
from mmformat.model.values import Budget, kind_of, refusal_of

__all__ = [
    "PadRule",
    "content_hash_of",
    "hash_of",
    "hash_of_identity",
    "identity_of",
    "pad_value_of_hash",
    "pad_values_of_hash",
]

PadRule: TypeAlias = Literal["sglang-0.5.5", "sglang-0.5.23"]
"""Which version of SGLang a number is for."""

DOMAIN: Final = b"mmformat-identity-v1\0"
WIDE_PAD_DOMAIN: Final = b"sglang-mm-wide-pad-v1"
WIDE_PAD_OFFSET: Final = 1_000_000
MAX_HASH: Final = 2**64 - 1

_HEXADECIMAL: Final = frozenset("0123456789abcdef")


def identity_of(item: MultimodalDataItem) -> str:
    """Return the BLAKE3 digest of an item's content, or the identity that came with it.

    Parameters
    ----------
    item : MultimodalDataItem
        Materialized; its modality, feature, embeddings and model-specific data count. Where it
        stands in a prompt, its format and its hash do not.

    Returns
    -------
    str
        Hexadecimal, 64 digits. It is collision-resistant, as a prefix cache shared by tenants
        requires.

    Raises
    ------
    ModelError
        If a value is a source, is on a device, or is of a kind that no message carries.

    Notes
    -----
    The digest is over frames: a tag for the kind, the name, dtype, shape and length before the
    bytes, the length of each list. So reshaped, regrouped or recast data differ, and torch and
    numpy do not. The identity of a dictionary tensor is not that of the expanded tensor, which
    would cost the expansion.

    **Copies**: none of contiguous tensors. **Cost**: one pass over the bytes.

    References
    ----------
    docs/decisions/0003-identity.md: why this digest, and why it is of the codes.

    Examples
    --------
    >>> from mmformat.model import Modality
    >>> item = MultimodalDataItem(modality=Modality.IMAGE, feature=np.zeros((2, 3), np.float32))
    >>> identity_of(item)[:16]
    '785cc72cbd4c5bac'
    """
    if item.identity is not None and (item.is_intact or not item.frozen):
        return str(item.identity)
    hasher = blake3()
    hasher.update(DOMAIN)
    _frame(hasher, item.modality.value, "$.modality")
    _frame(hasher, item.feature, "$.feature")
    _frame(hasher, item.precomputed_embeddings, "$.precomputed_embeddings")
    _frame(hasher, item.model_specific_data, "$.model_specific_data")
    return hasher.hexdigest()


def hash_of(item: MultimodalDataItem) -> int:
    """Return the item's hash; one that came with it is never computed again.

    Returns
    -------
    int
        0 to 2**64 - 1 when it is made here; an old peer's may be negative or longer.

    Raises
    ------
    ModelError
        As :func:`identity_of`.
    """
    if item.hash is not None and not _is_stale(item):
        return item.hash
    return hash_of_identity(identity_of(item))


def _is_stale(item: MultimodalDataItem) -> bool:
    """Return whether the hash was derived from values that a frozen item no longer holds."""
    identity = item.identity
    return (
        item.frozen
        and type(identity) is ContentIdentity
        and identity.is_hash_derived
        and not item.is_intact
    )


def hash_of_identity(identity: str) -> int:
    """Return the first 64 bits of an identity, as an unsigned number.

    An identity that does not start with 16 hexadecimal digits is some other library's; its number
    is then made of the SHA-256 of its text.

    Examples
    --------
    >>> hash_of_identity("00000000000000ff" + "0" * 48)
    255
    """
    head = identity[:16]
    if len(head) < 16 or not set(head) <= _HEXADECIMAL:
        return int.from_bytes(hashlib.sha256(identity.encode()).digest()[:8], "big")
    return int(head, 16)


def pad_value_of_hash(hash_value: int, *, rule: PadRule = "sglang-0.5.23") -> int:
    """Return the (first) token number that stands for an item in a prompt.

    Raises
    ------
    ModelError
        If the rule is unknown or the hash does not fit it.
    """
    return pad_values_of_hash(hash_value, rule=rule)[0]


def pad_values_of_hash(
    hash_value: int, *, rule: PadRule = "sglang-0.5.23", identity: str | bytes | None = None
) -> tuple[int, ...]:
    """Return the token numbers that are repeated over an item's span in a prompt.

    Parameters
    ----------
    hash_value : int
        The item's hash.
    rule : {"sglang-0.5.23", "sglang-0.5.5"}
        Four wide numbers, or one of 30 bits.
    identity : str or bytes, optional
        What 0.5.23 takes instead of the hash when its item has an identity.

    Raises
    ------
    ModelError
        If the rule is unknown, or the hash of the wide rule is not within 64 bits.

    References
    ----------
    SGLang 0.5.5: ``hash % 2**30``. SGLang 0.5.23: with d the SHA-256 of
    ``b"sglang-mm-wide-pad-v1"`` and the identity, or the hash as 8 bytes, big-endian, each value
    is ``1_000_000 + (8 bytes of d, big-endian, modulo 2**62)``.

    Examples
    --------
    >>> pad_values_of_hash(12345, rule="sglang-0.5.5")
    (12345,)
    >>> pad_values_of_hash(12345)[0]
    3885543670547236207
    """
    if rule == "sglang-0.5.5":
        return (hash_value % 2**30,)
    if rule != "sglang-0.5.23":
        raise ModelError(f"expected a rule of sglang-0.5.5 or sglang-0.5.23, got {rule!r}")
    if identity is None:
        if not 0 <= hash_value <= MAX_HASH:
            raise ModelError(f"expected a hash of 64 bits, got {hash_value}", path="$.hash")
        seed = hash_value.to_bytes(8, "big")
    else:
        seed = identity.encode() if isinstance(identity, str) else identity
    digest = hashlib.sha256(WIDE_PAD_DOMAIN + seed).digest()
    return tuple(WIDE_PAD_OFFSET + (word & (2**62 - 1)) for word in struct.unpack(">4Q", digest))


def content_hash_of(feature: Any, *, rule: PadRule = "sglang-0.5.23") -> int:
    """Return the hash that SGLang itself would give to a feature.

    Parameters
    ----------
    feature : tensor, DictionaryTensor, or list of tensors
        A dictionary tensor is expanded: SGLang never saw its codes.
    rule : {"sglang-0.5.23", "sglang-0.5.5"}
        They differ for bfloat16: 0.5.5 hashes its float32 values, 0.5.23 its own bytes.

    Raises
    ------
    ModelError
        If the rule is unknown or the feature is of another kind.

    Notes
    -----
    Shape, dtype and list boundaries do not count in either version, so different features can
    have one hash: this is for talking to such an engine, :func:`identity_of` for all else.
    **Copies**: none of contiguous tensors, except bfloat16 under the old rule.
    """
    if rule not in ("sglang-0.5.5", "sglang-0.5.23"):
        raise ModelError(f"expected a rule of sglang-0.5.5 or sglang-0.5.23, got {rule!r}")
    hasher = hashlib.sha256()
    for part in _flat(feature):
        value = part.expand() if isinstance(part, DictionaryTensor) else part
        if not is_tensor(value):
            raise ModelError(f"expected tensors, got {type(value).__name__}", path="$.feature")
        if rule == "sglang-0.5.5" and is_torch(value) and tensor_spec(value).dtype == "bfloat16":
            value = cast(Any, value).float()
        hasher.update(tensor_buffer(value))
    return int.from_bytes(hasher.digest()[:8], "big")


def _flat(value: Any) -> list[Any]:
    if isinstance(value, (list, tuple)):
        return [leaf for part in value for leaf in _flat(part)]
    return [value]


def _frame(
    hasher: blake3, value: Any, path: str, depth: int = 0, budget: Budget | None = None
) -> None:
    # Every frame tells its own length before its content, so that no two values share bytes.
    budget = budget or Budget()
    kind = kind_of(value)
    if kind == "tensor":
        _tensor(hasher, value, path)
    elif kind == "dictionary":
        layout = struct.pack("<3Q", value.axis, value.repeat_axis, value.repeat)
        hasher.update(b"D" + layout + _shape(value.shape))
        _tensor(hasher, value.codes, f"{path}.codes")
        _tensor(hasher, value.table, f"{path}.table")
    elif kind in ("list", "tuple"):
        budget.enter(len(value), depth, path=path)
        hasher.update((b"L" if kind == "list" else b"U") + struct.pack("<Q", len(value)))
        for index, part in enumerate(value):
            _frame(hasher, part, f"{path}[{index}]", depth + 1, budget)
    elif kind == "dict":
        # Two dicts of the same entries are equal in Python, whatever their order.
        budget.enter(len(value), depth, path=path)
        hasher.update(b"M" + struct.pack("<Q", len(value)))
        for key in sorted(value, key=lambda key: (type(key).__name__, str(key))):
            _frame(hasher, key, path, depth + 1, budget)
            _frame(hasher, value[key], f"{path}[{key!r}]", depth + 1, budget)
    elif kind == "scalar":
        _tensor(hasher, np.asarray(value), path)
    else:
        _scalar(hasher, kind, value, path)


def _tensor(hasher: blake3, value: Any, path: str) -> None:
    spec = tensor_spec(value, path=path)
    name = spec.dtype.encode()
    hasher.update(b"T" + struct.pack("<Q", len(name)) + name + _shape(spec.shape))
    hasher.update(struct.pack("<Q", spec.nbytes))
    hasher.update(tensor_buffer(value, path=path))


def _shape(shape: tuple[int, ...]) -> bytes:
    return struct.pack(f"<{len(shape) + 1}Q", len(shape), *shape)


def _scalar(hasher: blake3, kind: str | None, value: Any, path: str) -> None:
    if kind == "none":
        tag, raw = b"N", b""
    elif kind == "bool":
        tag, raw = b"?", bytes([value])
    elif kind == "int":
        tag, raw = b"I", str(value).encode()
    elif kind == "float":
        tag, raw = b"F", struct.pack("<d", value)
    elif kind == "complex":
        tag, raw = b"C", struct.pack("<2d", value.real, value.imag)
    elif kind == "str":
        tag, raw = b"S", value.encode("utf-8", "surrogatepass")
    elif kind in ("bytes", "bytearray"):
        tag, raw = b"B", bytes(value)
    else:
        raise refusal_of(value, path=path)
    hasher.update(tag + struct.pack("<Q", len(raw)) + raw)
