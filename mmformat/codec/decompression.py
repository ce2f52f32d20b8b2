"""The buffers of a compressed batch: their claimed lengths, checked, and then their bytes."""

from __future__ import annotations

import pyarrow as pa

from mmformat._arrow import decompress_lz4, read_compressed_batch
from mmformat.codec.flatbuffer import BatchMetadata
from mmformat.codec.layout import BUFFERS
from mmformat.codec.rows import Bytes
from mmformat.codec.schema import ALIGNMENT, SCHEMA
from mmformat.codec.spans import Spans
from mmformat.errors import IntegrityError, TruncatedError

__all__ = ["claimed_lengths", "decompress_batch", "decompress_columns"]

RATIO = 255
"""An LZ4 sequence cannot make more bytes than this of one."""


def claimed_lengths(spans: Spans, body_at: int, metadata: BatchMetadata) -> tuple[int, ...]:
    """Return the uncompressed length that stands before each buffer; nothing is decompressed.

    Raises
    ------
    IntegrityError, TruncatedError
        When a length is missing, or more than its bytes can make.
    """
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
            if not 0 <= claimed <= RATIO * (nbytes - 8):
                raise IntegrityError(
                    f"expected a length that {nbytes - 8} bytes of LZ4 can make, got {claimed}",
                    path=path,
                    code="compression",
                )
        lengths.append(claimed)
    return tuple(lengths)


def decompress_batch(message: Bytes, lengths: tuple[int, ...]) -> tuple[Bytes, list[Bytes]]:
    """Return the column buffers as a plain body has them, and the data buffers.

    Raises
    ------
    IntegrityError
        When a buffer is no LZ4 frame of its claimed length.

    Notes
    -----
    **Copies**: every byte, on all cores; the columns once more.
    """
    try:
        buffers = [
            memoryview(b"" if buffer is None else buffer)
            for buffer in read_compressed_batch(message, SCHEMA)
        ]
    except (pa.ArrowException, OSError) as error:
        raise _not_lz4(error) from error
    if tuple(map(len, buffers)) != lengths:
        raise _not_lz4("other lengths")
    return _columns(buffers[:BUFFERS]), list(buffers[BUFFERS:])


def decompress_columns(
    spans: Spans, body_at: int, metadata: BatchMetadata, lengths: tuple[int, ...]
) -> Bytes:
    """Return the column buffers as a plain body has them; no byte of a data buffer is read.

    Raises
    ------
    IntegrityError
        When a buffer is no LZ4 frame of its claimed length.
    """
    buffers: list[Bytes] = []
    for (offset, nbytes), length in zip(_pairs(metadata.buffers)[:BUFFERS], lengths, strict=False):
        stored = spans.read(body_at + offset, nbytes)
        if nbytes == 0 or int.from_bytes(stored[:8], "little", signed=True) == -1:
            buffers.append(stored[8:])
            continue
        try:
            buffers.append(decompress_lz4(stored[8:], length))
        except (pa.ArrowException, OSError, ValueError) as error:
            raise _not_lz4(error) from error
    return _columns(buffers)


def _pairs(flat: tuple[int, ...]) -> list[tuple[int, int]]:
    return list(zip(flat[::2], flat[1::2], strict=True))


def _columns(buffers: list[Bytes] | list[memoryview]) -> bytes:
    joined = b"".join([bytes(buffer) + bytes(-len(buffer) % 8) for buffer in buffers])
    return joined + bytes(-len(joined) % ALIGNMENT)


def _not_lz4(what: object) -> IntegrityError:
    return IntegrityError(
        f"expected LZ4 frames of the lengths before them, got: {what}", code="compression"
    )
