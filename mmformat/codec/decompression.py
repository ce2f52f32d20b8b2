"""The buffers of a compressed batch: their claimed lengths, checked, and then their bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa

from mmformat._arrow import allocated, decompress_into, decompressed_nbytes
from mmformat.codec.cores import on_all_cores
from mmformat.codec.flatbuffer import BatchMetadata
from mmformat.codec.frame import RATIO, check_frame
from mmformat.codec.layout import BUFFERS
from mmformat.codec.lz4 import has_library, unpack_frame
from mmformat.codec.rows import DICTIONARY, Bytes, Place, Row
from mmformat.codec.schema import ALIGNMENT
from mmformat.codec.spans import Spans
from mmformat.errors import DecodeError, IntegrityError, ModelError, TruncatedError

__all__ = [
    "Allocate",
    "check_lengths",
    "claimed_lengths",
    "decompress_columns",
    "decompress_tensors",
]

Allocate: TypeAlias = Callable[[int], Any]
"""Return writable memory of so many bytes, at a multiple of 64."""

STORED: Final = (-1).to_bytes(8, "little", signed=True)
"""Stands for the length before a buffer that is stored as it is."""

_ZEROS: Final = bytes(ALIGNMENT)

ALONE_NBYTES: Final = 2**20
"""Fewer bytes than this are decompressed sooner than a thread starts."""


def claimed_lengths(spans: Spans, body_at: int, metadata: BatchMetadata) -> tuple[int, ...]:
    """Return the uncompressed length that stands before each buffer; nothing is decompressed.

    Raises
    ------
    IntegrityError, TruncatedError
        When a length is missing, or more than its bytes can make.
    """
    ratio = RATIO[metadata.codec or "lz4"]
    lengths = []
    for index, (offset, nbytes) in enumerate(_pairs(metadata.buffers)):
        path = f"$.buffers[{index}]"
        claimed = 0
        if nbytes:
            if nbytes < 8:
                raise TruncatedError(
                    "expected a length before compressed bytes", path=path, code="compression"
                )
            claimed = int.from_bytes(spans.read(body_at + offset, 8), "little", signed=True)
            if claimed == -1:  # stored as it is
                claimed = nbytes - 8
            if not 0 <= claimed <= ratio * (nbytes - 8):
                raise IntegrityError(
                    f"expected a length that {nbytes - 8} bytes of {metadata.codec} can make, "
                    f"got {claimed}",
                    path=path,
                    code="compression",
                )
        lengths.append(claimed)
    return tuple(lengths)


def decompress_columns(
    spans: Spans, body_at: int, metadata: BatchMetadata, lengths: tuple[int, ...]
) -> Bytes:
    """Return the column buffers as a plain body has them; no byte of a data buffer is read.

    Raises
    ------
    IntegrityError
        When a buffer is no frame of its claimed length.
    """
    codec = metadata.codec or "lz4"
    columns: list[bytes | bytearray | memoryview] = []
    total = 0
    for at, (offset, nbytes) in enumerate(_pairs(metadata.buffers)[:BUFFERS]):
        if not nbytes:
            continue
        length = lengths[at]
        stored = spans.read(body_at + offset, nbytes)
        if stored[:8] == STORED:
            columns.append(stored[8:])
        else:
            column = bytearray(length)
            _unpack(_Part(True, stored[8:], memoryview(column), f"$.buffers[{at}]"), codec)
            columns.append(column)
        columns.append(_ZEROS[: -length % 8])
        total += length + -length % 8
    columns.append(_ZEROS[: -total % ALIGNMENT])
    return b"".join(columns)


def check_lengths(
    spans: Spans, body_at: int, metadata: BatchMetadata, lengths: tuple[int, ...]
) -> None:
    """Raise when a data buffer is no frame of its claimed length.

    For a batch whose columns say something else already: whoever claims a wrong length is told
    so, and not that a view disagrees with it.

    Raises
    ------
    DecodeError, IntegrityError
        Naming the buffer.

    Notes
    -----
    **Cost**: every data buffer is decompressed, a megabyte at a time, and kept nowhere.
    """
    codec = metadata.codec or "lz4"
    for at, (offset, nbytes) in enumerate(_pairs(metadata.buffers)):
        if at < BUFFERS or not nbytes:
            continue
        stored = spans.read(body_at + offset, nbytes)
        if stored[:8] == STORED:
            continue
        path = f"$.buffers[{at}]"
        check_frame(stored[8:], lengths[at], codec, path=path)
        try:
            found: object = decompressed_nbytes(stored[8:], codec, most=lengths[at])
        except (pa.ArrowException, OSError, ValueError) as error:
            found = error
        if found != lengths[at]:
            raise _other_length(found, codec, path)


class _Part(NamedTuple):
    """One buffer as it is stored, and the memory that it is written to."""

    is_frame: bool
    stored: memoryview
    destination: memoryview
    path: str


def _part(spans: Spans, at: int, nbytes: int, destination: memoryview, path: str) -> _Part:
    # Read apart, because a chunk that is stored may be a frame of its own, and would be joined.
    is_frame = spans.read(at, 8) != STORED
    return _Part(is_frame, spans.read(at + 8, nbytes - 8), destination, path)


def decompress_tensors(
    spans: Spans, rows: Sequence[Row], codec: str, *, allocate: Allocate | None = None
) -> None:
    """Replace each Place among the rows' data by its bytes, on all cores.

    The chunks of a tensor are written behind each other, so that they are one view of it. All of
    its lengths must have been checked, against limits and against its shape.

    Parameters
    ----------
    spans : Spans
        The message.
    rows : sequence of Row
        Of one compressed batch; changed in place.
    codec : {"lz4", "zstd"}
        Of the batch.
    allocate : callable, optional
        Called once for each tensor that has a Place.

    Raises
    ------
    IntegrityError
        When a buffer is no frame of its claimed length.
    DecodeError
        When its first bytes are not those in its view.

    Notes
    -----
    **Copies**: each byte is written once to its place. **Cost**: beside that, each thread holds
    about a megabyte, whatever the sizes are.
    """
    parts: list[_Part] = []
    prefixes: list[bytes] = []
    for row in rows:
        for number, entry in enumerate(row.tensors):
            if not any(type(chunk) is Place for chunk in entry.data):
                continue
            path = f"$.items[{row.item}].{entry.name}"
            data = list(_laid_out(entry.data, entry.encoding == DICTIONARY, allocate or allocated))
            for chunk, destination in zip(entry.data, data, strict=True):
                if type(chunk) is Place:
                    parts.append(_part(spans, chunk.at, chunk.stored_nbytes, destination, path))
                    prefixes.append(chunk.prefix)
                else:
                    destination[:] = chunk
            row.tensors[number] = entry._replace(data=data)

    def unpack(part: _Part) -> None:
        _unpack(part, codec)

    if sum([len(part.destination) for part in parts]) < ALONE_NBYTES:
        for part in parts:
            unpack(part)
    else:
        on_all_cores(unpack, parts)
    for part, prefix in zip(parts, prefixes, strict=True):
        if bytes(part.destination[:4]) != prefix:
            raise DecodeError(
                "expected the first bytes of each data buffer in its view",
                path=part.path,
                code="view-prefix",
            )


def _laid_out(data: Sequence[Any], has_table: bool, allocate: Allocate) -> Iterator[memoryview]:
    """Yield memory for each chunk, each right behind the other; the codes of a dictionary align."""
    padding = -len(data[0]) % ALIGNMENT if has_table else 0
    nbytes = sum(map(len, data)) + padding
    memory = memoryview(allocate(nbytes)).cast("B")
    if memory.readonly or len(memory) < nbytes:
        # A library is given the address, and would write there all the same.
        raise ModelError(
            f"expected {nbytes:,} writable bytes, got {len(memory):,}"
            f"{', read-only' if memory.readonly else ''}",
            path="$.allocate",
            hint="allocate(nbytes) returns that much memory, as bytearray(nbytes) does",
        )
    at = 0
    for number, chunk in enumerate(data):
        yield memory[at : at + len(chunk)]
        at += len(chunk) + (0 if number else padding)


def _unpack(part: _Part, codec: str) -> None:
    is_frame, frame, destination, path = part
    if not is_frame:
        # numpy's copy, unlike a memoryview's, lets other threads run.
        np.copyto(np.frombuffer(destination, np.uint8), np.frombuffer(frame, np.uint8))
        return
    check_frame(frame, len(destination), codec, path=path)
    try:
        if codec == "lz4" and has_library():
            unpack_frame(frame, destination)
        else:
            decompress_into(frame, destination, codec)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _other_length(error, codec, path) from error


def _other_length(found: object, codec: str, path: str) -> IntegrityError:
    return IntegrityError(
        f"expected a frame of {codec} of the length before it, got: {found}",
        path=path,
        code="compression",
    )


def _pairs(flat: tuple[int, ...]) -> list[tuple[int, int]]:
    return list(zip(flat[::2], flat[1::2], strict=True))
