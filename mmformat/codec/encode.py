"""Encode inputs: rows, then one or two record batches, then frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from mmformat.codec.attributes import BARE, LARGEST_INT, split
from mmformat.codec.columns import Chunk, Row
from mmformat.codec.compression import (
    continue_large,
    explained,
    write_batch,
    write_compressed_batch,
)
from mmformat.codec.schema import (
    COMPRESSION_KEY,
    END_OF_STREAM,
    REQUEST,
    SCHEMA_MESSAGE,
    schema_message_with,
)
from mmformat.codec.templates import encode_by_template, learn_template, outline_of
from mmformat.codec.tensors import entry_of
from mmformat.errors import EncodeError, ModelError
from mmformat.model.compression import Compression
from mmformat.model.item import ContentIdentity, MultimodalDataItem, MultimodalInputs
from mmformat.model.message import EncodedMessage
from mmformat.model.values import kind_of

__all__ = ["encode", "encode_after"]


def encode(
    inputs: MultimodalInputs, compression: Compression | str | None = None
) -> EncodedMessage:
    """Encode the inputs of one request as one Arrow IPC stream.

    Parameters
    ----------
    inputs : MultimodalInputs
        Materialized inputs: tensors on the CPU, no Source.
    compression : Compression, {"lz4", "zstd", "auto"} or None
        With a codec, tensors over the threshold go into a compressed record batch.

    Returns
    -------
    EncodedMessage
        Its frames are the tensors' own memory, if that is contiguous.

    Raises
    ------
    EncodeError
        If a value cannot be encoded; the path names it.

    Notes
    -----
    **Copies**: none of a contiguous tensor; a non-contiguous one is copied once, when it is
    written to its destination; compressed tensors are copied on all cores, except chunks of 1 MiB
    that do not shrink.
    **Lifetime**: the message keeps the tensors alive. Do not write to one while the message is in
    use: it would change, and a reader refuses it when the first bytes of a tensor are not those
    that were encoded. A tensor that requires a gradient is detached: gradients do not travel.
    An OrderedDict is carried as a dict, a named tuple or torch.Size as a tuple. **Cost**: constant
    in the size of uncompressed tensors, except bool ones, whose bytes are read. Inputs with the
    structure of earlier ones are encoded by a template, in a third of the time.

    References
    ----------
    SPEC.md, "Layout".

    Examples
    --------
    >>> import numpy as np
    >>> import mmformat as mm
    >>> item = mm.MultimodalDataItem(modality="IMAGE", feature=np.zeros((4, 1176), np.float32))
    >>> message = mm.encode(mm.MultimodalInputs(items=[item]))
    >>> mm.decode(message).items[0].feature.shape
    (4, 1176)
    """
    options = Compression.of(compression)
    outline = None
    if options is None and type(inputs) is MultimodalInputs:
        outline = outline_of(inputs)
        known = None if outline is None else encode_by_template(outline)
        if known is not None:
            return known
    rows = rows_of(inputs, is_lazy=options is None)
    head, compressed = SCHEMA_MESSAGE, []
    if options is not None:
        continuations, choices = continue_large(rows, options)
        if choices:
            head = schema_message_with(COMPRESSION_KEY, explained(choices))
        if continuations:
            compressed = write_compressed_batch(
                continuations, "lz4" if options.codec == "auto" else options.codec
            )
    message = EncodedMessage(_merged([head, *write_batch(rows), *compressed, END_OF_STREAM]))
    if outline is not None:
        learn_template(outline, rows)
    return message


def encode_after(inputs: MultimodalInputs, *, head_nbytes: int) -> EncodedMessage:
    """Encode inputs so that the first tensor lies at a given byte of the message.

    The metadata of an Arrow message may be padded, so tensors can be written to their place before
    the rest of the message is known.

    Parameters
    ----------
    inputs : MultimodalInputs
        As for :func:`encode`.
    head_nbytes : int
        A multiple of 64.

    Raises
    ------
    EncodeError
        If schema, metadata and columns need more bytes.

    Notes
    -----
    **Copies**: as :func:`encode` without compression.
    """
    frames = write_batch(rows_of(inputs), head_nbytes=head_nbytes - len(SCHEMA_MESSAGE))
    return EncodedMessage(_merged([SCHEMA_MESSAGE, *frames, END_OF_STREAM]))


def rows_of(inputs: MultimodalInputs, *, is_lazy: bool = False) -> list[Row]:
    """Return one row for each item, and one for the request if it has data.

    Raises
    ------
    EncodeError
        If a value cannot travel.
    """
    if not isinstance(inputs, MultimodalInputs):
        raise EncodeError(f"expected MultimodalInputs, got {type(inputs).__name__}", path="$")
    rows = [_item_row(index, item, is_lazy) for index, item in enumerate(inputs.items)]
    if _dict(inputs.request_data, "$.request_data"):
        row = Row(-1, REQUEST)
        row.attributes = _split_into(
            row, {"request_data": inputs.request_data}, path="$", is_lazy=is_lazy
        )
        rows.append(row)
    return rows


def _item_row(index: int, item: MultimodalDataItem, is_lazy: bool) -> Row:
    path = f"$.items[{index}]"
    if type(item.identity) is ContentIdentity:
        item = replace(item)  # without an identity of values that it no longer holds
    row = Row(
        index,
        item.modality.value,
        item.format.value,
        _integer(item.hash, f"{path}.hash"),
        item.pad_value,
        item.identity,
        _ranges(item.offsets, f"{path}.offsets"),
    )
    _integer(item.pad_value, f"{path}.pad_value", allowed=_WORDS)
    _check_text(item.identity, f"{path}.identity")
    values: dict[str, Any] = {}
    for name in ("feature", "precomputed_embeddings"):
        value = getattr(item, name)
        if isinstance(value, BARE):
            raise EncodeError(
                f"expected a tensor or tensors in a list, got {type(value).__name__}",
                path=f"{path}.{name}",
            )
        if value is not None:
            values[name] = value
    if _dict(item.model_specific_data, f"{path}.model_specific_data"):
        values["model_specific_data"] = item.model_specific_data
    row.attributes = _split_into(row, values, path=path, is_lazy=is_lazy)
    return row


def _split_into(row: Row, values: dict[str, Any], *, path: str, is_lazy: bool) -> str:
    names = set()

    def collect(name: str, value: Any) -> None:
        if name in names:
            raise EncodeError(
                "two keys have the same text",
                path=f"{path}.{name}",
                hint="two NaN keys, or tensors as keys?",
                code="tensor-names",
            )
        names.add(name)
        try:
            row.tensors.append(entry_of(name, value, path=f"{path}.{name}", is_lazy=is_lazy))
        except ModelError as error:
            raise EncodeError(
                error.reason, path=f"{path}.{name}", hint=error.hint, code=error.code
            ) from error

    return split(values, collect, path=path)


_HASHES: Final = range(-LARGEST_INT, LARGEST_INT + 1)
_WORDS: Final = range(-(2**63), 2**63)


def _integer(value: object, path: str, *, allowed: range = _HASHES) -> str | None:
    if value is None:
        return None
    if type(value) is not int or value not in allowed:
        got = _short_int(value) if type(value) is int else type(value).__name__
        least, most = _short_int(allowed.start), _short_int(allowed.stop - 1)
        raise EncodeError(f"must be None or an int from {least} to {most}, got {got}", path=path)
    return str(value)


def _short_int(value: int) -> str:
    """Return a number in digits, or as a power of two where it is long."""
    bits = value.bit_length()
    sign = "-" if value < 0 else ""
    return str(value) if bits <= 128 else f"{sign}2**{bits - 1} or more"


def _check_text(value: object, path: str) -> None:
    if value is None:
        return
    if not isinstance(value, str) or type(value) not in (str, ContentIdentity):
        raise EncodeError(f"expected str, got {type(value).__name__}", path=path)
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise EncodeError(f"expected text that UTF-8 can hold, got: {error}", path=path) from error


def _dict(value: Any, path: str) -> dict[str, Any]:
    if kind_of(value) != "dict":
        raise EncodeError(
            f"expected dict, got {type(value).__name__}", path=path, hint="convert it: dict(value)"
        )
    made: dict[str, Any] = value
    return made


def _ranges(value: Any, path: str) -> list[tuple[int, int]] | None:
    if value is None:
        return None
    try:
        ranges = [(start, end) for start, end in value]
        wide = any(
            type(number) is not int or not -(2**63) <= number < 2**63
            for pair in ranges
            for number in pair
        )
    except (TypeError, ValueError) as error:
        raise EncodeError("expected pairs of int", path=path) from error
    if wide:
        raise EncodeError("expected pairs of int of 64 bits", path=path)
    return ranges


def _merged(frames: Sequence[Chunk]) -> list[Chunk]:
    """Join the frames between tensors, so that each tensor is preceded by one frame."""
    merged: list[Chunk] = []
    pending: list[bytes] = []
    for frame in frames:
        if type(frame) is bytes:
            pending.append(frame)
            continue
        if pending:
            merged.append(b"".join(pending))
            pending = []
        merged.append(frame)
    merged.append(b"".join(pending))
    return merged
