"""One record batch of the stream: laid out and framed, or found and cut into its buffers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from mmformat._arrow import Lz4Codec, lz4_codec
from mmformat.codec.columns import ColumnWriter
from mmformat.codec.flatbuffer import BatchMetadata, write_batch_metadata
from mmformat.codec.rows import Bytes, Row
from mmformat.codec.schema import ALIGNMENT, CONTINUATION

__all__ = ["write_batch"]

_ZEROS = bytes(ALIGNMENT)


def write_batch(rows: Sequence[Row], *, compressed: bool) -> list[Bytes]:
    """Return the frames of one record batch: metadata, columns, then each tensor.

    Notes
    -----
    **Copies**: no tensor byte when not compressed. The frames begin and end on a multiple of 64
    bytes when joined to a stream that is at one, and so does every tensor.
    """
    columns = ColumnWriter(rows)
    small: list[Bytes] = list(columns.buffers)
    large = columns.variadic
    if compressed:
        codec = lz4_codec()
        small = [_compress(codec, buffer) for buffer in small]
        large = [_compress(codec, buffer) for buffer in large]
    places: list[int] = []
    head: list[Bytes] = []
    end = 0
    for buffer in small:
        places += (end, len(buffer))
        end = _append(head, buffer, end, 8)
    if end % ALIGNMENT:
        head.append(_ZEROS[: -end % ALIGNMENT])
        end += -end % ALIGNMENT
    body: list[Bytes] = []
    for buffer in large:
        places += (end, len(buffer))
        end = _append(body, buffer, end, ALIGNMENT)
    metadata = write_batch_metadata(
        BatchMetadata(
            length=len(rows),
            body_nbytes=end,
            nodes=tuple(columns.nodes),
            buffers=tuple(places),
            compressed=compressed,
            variadic=(len(large),),
        )
    )
    missing = -(len(metadata) + 8) % ALIGNMENT
    prefix = CONTINUATION + (len(metadata) + missing).to_bytes(4, "little")
    return [b"".join([prefix, metadata, _ZEROS[:missing], *head]), *body]


def _append(parts: list[Bytes], buffer: Bytes, end: int, alignment: int) -> int:
    if len(buffer):
        parts.append(buffer)
        padding = -len(buffer) % alignment
        if padding:
            parts.append(_ZEROS[:padding])
        end += len(buffer) + padding
    return end


def _compress(codec: Lz4Codec, buffer: Bytes) -> Bytes:
    # Arrow, "Compression": the uncompressed length as int64, then one LZ4 frame; nothing if empty.
    if not len(buffer):
        return b""
    return len(buffer).to_bytes(8, "little") + bytes(memoryview(codec.compress(buffer)))
