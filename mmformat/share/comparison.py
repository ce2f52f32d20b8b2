"""Compare inputs with what was written of them: every tensor by hash, all else by value."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from blake3 import blake3

from mmformat.cuda.decode import decode
from mmformat.errors import IntegrityError
from mmformat.model.item import MultimodalInputs
from mmformat.model.tensors import is_tensor, tensor_buffer, tensor_spec

__all__ = ["digests", "verify_file"]


def digests(inputs: MultimodalInputs) -> list[tuple[str, str]]:
    """Return a path and a text for each value of the inputs; of a tensor its dtype, shape, hash.

    Two inputs are equal when these lists are.

    Examples
    --------
    >>> digests(MultimodalInputs(request_data={"n": 7}))
    [('$.request_data', 'dict of 1'), ("$.request_data['n']", '7')]
    """
    made: list[tuple[str, str]] = []
    for index, item in enumerate(inputs.items):
        for name in ("modality", "format", "hash", "pad_value", "identity", "offsets", "feature",
                     "precomputed_embeddings", "model_specific_data"):  # fmt: skip
            _digest(getattr(item, name), f"$.items[{index}].{name}", made)
    _digest(inputs.request_data, "$.request_data", made)
    return made


def _digest(value: Any, path: str, made: list[tuple[str, str]]) -> None:
    if is_tensor(value):
        spec = tensor_spec(value, path=path)
        mark = blake3(memoryview(tensor_buffer(value, path=path))).hexdigest()
        made.append((path, f"{spec.dtype} {spec.shape} {mark}"))
    elif isinstance(value, dict):
        made.append((path, f"dict of {len(value)}"))
        for key, part in value.items():
            _digest(part, f"{path}[{key!r}]", made)
    elif isinstance(value, list | tuple):
        made.append((path, f"{type(value).__name__} of {len(value)}"))
        for index, part in enumerate(value):
            _digest(part, f"{path}[{index}]", made)
    else:
        made.append((path, repr(value)))


def verify_file(inputs: MultimodalInputs, path: Path) -> None:
    """Decode a message file and compare it with the inputs; an unequal one is removed.

    Raises
    ------
    IntegrityError
        Naming the first value that differs.
    DecodeError
        When the file is no message.
    """
    wanted, got = digests(inputs), digests(decode(path))
    for (where, one), (there, other) in zip(wanted, got, strict=False):
        if (where, one) != (there, other):
            path.unlink(missing_ok=True)
            raise IntegrityError(f"expected {one} at {where}, got {other} at {there}")
    if len(wanted) != len(got):
        path.unlink(missing_ok=True)
        raise IntegrityError(f"expected {len(wanted)} values, got {len(got)}")
