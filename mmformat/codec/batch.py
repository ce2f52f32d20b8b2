"""One record batch as frames of the stream."""

from __future__ import annotations

from collections.abc import Sequence

from mmformat._arrow import Lz4Codec, lz4_codec
from mmformat.codec.columns import write_rows
from mmformat.codec.layout import BUFFERS, encapsulate, layout_of, places
from mmformat.codec.rows import Bytes, Row
from mmformat.codec.schema import ALIGNMENT, CONTINUATION
from mmformat.errors import EncodeError

__all__ = ["write_batch", "write_compressed_batch"]

_ZEROS = bytes(ALIGNMENT)


def write_batch(rows: Sequence[Row], *, head_nbytes: int | None = None) -> list[Bytes]:
    """Return the frames of an uncompressed record batch: metadata and columns, then each tensor.

    Parameters
    ----------
    rows : sequence of Row
        Their tensors' data end the batch.
    head_nbytes : int, optional
        Pad the metadata until metadata and columns take this many bytes.

    Raises
    ------
    EncodeError
        When they take more.

    Notes
    -----
    **Copies**: no tensor byte. The frames begin and end on a multiple of 64 bytes when joined to a
    stream that is at one, and so does every tensor.
    """
    structure, columns, variadic = write_rows(rows)
    lengths = (*layout_of(structure).lengths, *map(len, variadic))
    prefix = encapsulate(structure, lengths, compressed=False)
    if head_nbytes is not None:
        prefix = _padded(prefix, head_nbytes - len(columns))
    frames: list[Bytes] = [prefix, columns]
    for tensor in variadic:
        frames.append(tensor)
        padding = -len(tensor) % ALIGNMENT
        if padding:
            frames.append(_ZEROS[:padding])
    return frames


def _padded(prefix: bytes, nbytes: int) -> bytes:
    if nbytes < len(prefix):
        raise EncodeError(
            f"expected {len(prefix) - nbytes:,} bytes less of metadata and columns",
            hint="reserve with more headroom_nbytes",
            code="headroom",
        )
    size = (nbytes - 8).to_bytes(4, "little")
    return CONTINUATION + size + prefix[8:] + bytes(nbytes - len(prefix))


def write_compressed_batch(rows: Sequence[Row]) -> list[Bytes]:
    """Return the frames of a record batch whose buffers are LZ4 frames (Arrow, "Compression").

    Notes
    -----
    **Copies**: every byte is compressed into new memory.
    """
    structure, columns, variadic = write_rows(rows)
    codec = lz4_codec()
    plain = places(layout_of(structure).lengths)[0]
    buffers = [columns[plain[2 * at] : plain[2 * at] + plain[2 * at + 1]] for at in range(BUFFERS)]
    packed = [_compress(codec, buffer) for buffer in (*buffers, *variadic)]
    lengths = tuple(map(len, packed))
    frames: list[Bytes] = [encapsulate(structure, lengths, compressed=True)]
    spots, body_nbytes = places(lengths)
    end = 0
    for at, buffer in enumerate(packed):
        frames += (bytes(spots[2 * at] - end), buffer)
        end = spots[2 * at] + len(buffer)
    frames.append(bytes(body_nbytes - end))
    return frames


def _compress(codec: Lz4Codec, buffer: Bytes) -> bytes:
    # The uncompressed length as int64, then one LZ4 frame; an empty buffer stays empty.
    if not len(buffer):
        return b""
    return len(buffer).to_bytes(8, "little") + bytes(memoryview(codec.compress(buffer)))
