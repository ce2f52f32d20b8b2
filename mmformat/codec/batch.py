"""One record batch as frames of the stream."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from mmformat._arrow import Codec, codec_of
from mmformat.codec.columns import write_rows
from mmformat.codec.cores import on_all_cores
from mmformat.codec.layout import BUFFERS, encapsulate, layout_of, places
from mmformat.codec.rows import Bytes, Row
from mmformat.codec.schema import ALIGNMENT, CONTINUATION
from mmformat.errors import EncodeError

__all__ = ["write_batch", "write_compressed_batch"]

WORTH_RATIO: Final = 0.9
"""What keeps more than this share of its bytes is stored as it is."""

_ZEROS: Final = bytes(ALIGNMENT)
_STORED: Final = (-1).to_bytes(8, "little", signed=True)


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
    prefix = encapsulate(structure, lengths)
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


def write_compressed_batch(
    rows: Sequence[Row], codec: str = "lz4", *, worth_ratio: float = WORTH_RATIO
) -> list[Bytes]:
    """Return the frames of a record batch whose buffers are compressed (Arrow, "Compression").

    Parameters
    ----------
    rows : sequence of Row
        Each chunk of their tensors is compressed on its own.
    codec : {"lz4", "zstd"}
        Of all buffers.
    worth_ratio : float
        A buffer that keeps more than this share of its bytes is stored, with the length -1.

    Notes
    -----
    **Copies**: what shrinks is compressed into new memory, on all cores; what does not stays where
    it lies. **Cost**: each thread holds the frame of one chunk besides.
    """
    structure, columns, variadic = write_rows(rows)
    library = codec_of(codec)
    plain = places(layout_of(structure).lengths)[0]
    buffers: list[Bytes] = [
        columns[plain[2 * at] : plain[2 * at] + plain[2 * at + 1]] for at in range(BUFFERS)
    ]
    packed = [_packed(library, buffer, worth_ratio) for buffer in buffers]
    packed += on_all_cores(lambda chunk: _packed(library, chunk, worth_ratio), variadic)
    lengths = tuple([sum(map(len, pieces)) for pieces in packed])
    frames: list[Bytes] = [encapsulate(structure, lengths, codec=codec)]
    spots, body_nbytes = places(lengths)
    end = 0
    for at, pieces in enumerate(packed):
        frames += (bytes(spots[2 * at] - end), *pieces)
        end = spots[2 * at] + lengths[at]
    frames.append(bytes(body_nbytes - end))
    return frames


def _packed(codec: Codec, buffer: Bytes, worth_ratio: float) -> tuple[Bytes, ...]:
    # The uncompressed length as int64, then one frame; an empty buffer stays empty.
    nbytes = len(buffer)
    if not nbytes:
        return ()
    frame = codec.compress(buffer)
    if frame.size > worth_ratio * nbytes:
        return (_STORED, buffer)
    # Joined, because the codec's buffer keeps room for all that it might have needed.
    return (memoryview(b"".join((nbytes.to_bytes(8, "little"), memoryview(frame)))),)
