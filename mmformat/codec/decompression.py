"""Compressed buffers: check claimed lengths and frames, then decompress into place."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa

from mmformat._arrow import allocated, buffer_of, decompress_into, decompressed_nbytes
from mmformat.codec.chained_buffer import ChainedBuffer
from mmformat.codec.columns import DICTIONARY, Bytes, Place, Row
from mmformat.codec.parallel import on_all_cores
from mmformat.codec.record_batch import BatchMetadata
from mmformat.codec.schema import ALIGNMENT, BUFFERS
from mmformat.errors import DecodeError, IntegrityError, ModelError, TruncatedError

__all__ = [
    "RATIO",
    "Allocate",
    "check_frame",
    "check_lengths",
    "claimed_lengths",
    "decompress_columns",
    "decompress_tensors",
    "has_library",
    "unpack_frame",
]

RATIO: Final = {"lz4": 255, "zstd": 2**15}
"""The largest possible ratio: an LZ4 sequence's last byte stands for 255, and a
Zstandard block of 4 bytes for 128 KiB."""

MAGIC: Final = {"lz4": b"\x04\x22\x4d\x18", "zstd": b"\x28\xb5\x2f\xfd"}

WINDOW_NBYTES: Final = 8 * 2**20
"""The largest Zstandard window that RFC 8878 requires of decoders; larger ones cost memory."""

_WORD: Final = struct.Struct("<I")
_SIZES: Final = (0, 2, 4, 8)


def check_frame(frame: Bytes, nbytes: int, codec: str, *, path: str) -> None:
    """Check that the bytes are one frame that can hold ``nbytes`` bytes.

    Raises
    ------
    DecodeError
        With code ``compression-codec``, for a frame of another codec.
    IntegrityError
        With code ``compression``, for any other violation.

    Notes
    -----
    **Cost**: one step for each block, at most one for each 4 KiB plus 16. The blocks' content is
    left to the codec's library.
    """
    view = memoryview(frame)
    start = bytes(view[:4])
    for other, magic in MAGIC.items():
        if other != codec and start == magic:
            raise DecodeError(
                f"expected frames of {codec}, as the metadata says, got one of {other}",
                path=path,
                code="compression-codec",
            )
    try:
        if start != MAGIC[codec]:
            raise ValueError("its magic number")
        end = _WALKS[codec](view, nbytes)
        if end != len(view):
            raise ValueError(f"{len(view)} bytes, got {end}")
    except (struct.error, IndexError):
        reason = "all its bytes"
    except ValueError as error:
        reason = str(error)
    else:
        return
    raise IntegrityError(
        f"expected one frame of {codec} with {reason}", path=path, code="compression"
    )


def _walk_lz4(view: memoryview, nbytes: int) -> int:
    flags = view[4]
    if flags >> 6 != 1 or flags & 0b11:
        raise ValueError("version 1 and without a dictionary")
    has_block_sums, has_size, has_sum = flags & 16, flags & 8, flags & 4
    if has_size and int.from_bytes(view[6:14], "little") != nbytes:
        raise ValueError("the length before it")
    at = 15 if has_size else 7
    checksum_nbytes = 4 if has_block_sums else 0
    for _ in range(_most_blocks(nbytes) + 1):  # the end's mark is a word too
        (word,) = _WORD.unpack_from(view, at)
        at += 4
        if word == 0:
            return at + (4 if has_sum else 0)
        at += (word & 0x7FFFFFFF) + checksum_nbytes
    raise ValueError("blocks of 4 KiB or more")


def _walk_zstd(view: memoryview, nbytes: int) -> int:
    flags = view[4]
    if flags & 0b1011:
        raise ValueError("no reserved bit and no dictionary")
    is_single, has_sum = flags & 32, flags & 4
    at = 5 if is_single else 6
    size_nbytes = _SIZES[flags >> 6] or (1 if is_single else 0)
    window = nbytes
    if not is_single:
        base = 1 << (10 + (view[5] >> 3))
        window = base + base // 8 * (view[5] & 7)
    if window > WINDOW_NBYTES:
        raise ValueError(f"a window of {WINDOW_NBYTES:,} bytes at most")
    if size_nbytes:
        size = int.from_bytes(view[at : at + size_nbytes], "little")
        if size + (256 if size_nbytes == 2 else 0) != nbytes:
            raise ValueError("the length before it")
    at += size_nbytes
    for _ in range(_most_blocks(nbytes)):
        head = view[at] | view[at + 1] << 8 | view[at + 2] << 16
        at += 3 + (1 if head >> 1 & 3 == 1 else head >> 3)
        if head & 1:
            return at + (4 if has_sum else 0)
    raise ValueError("blocks of 4 KiB or more")


_WALKS: Final[dict[str, Callable[[memoryview, int], int]]] = {
    "lz4": _walk_lz4,
    "zstd": _walk_zstd,
}


def _most_blocks(nbytes: int) -> int:
    return 16 + nbytes // 4096


_VERSION: Final = 100
"""Of LZ4F's interface."""

_OLDEST: Final = 10904
"""1.9.4; older versions lack fixes of bounds checks."""


class _Options(ctypes.Structure):
    """``LZ4F_decompressOptions_t``."""

    _fields_ = (
        ("stable_destination", ctypes.c_uint),
        ("skip_checksums", ctypes.c_uint),
        ("reserved", ctypes.c_uint * 2),
    )


_STABLE: Final = _Options(1, 0, (0, 0))
"""The destination is stable, so the library keeps no copy of it for later matches."""


_MOST_IDLE: Final = 16
_idle: list[ctypes.c_void_p] = []
"""Idle contexts, about 250 KB each; creating one costs a twentieth of a chunk's time."""


@cache
def _library() -> Any:
    """Return the system's liblz4, or None; pyarrow does not expose its own."""
    try:
        found = ctypes.CDLL("liblz4.so.1")
        if found.LZ4_versionNumber() < _OLDEST or found.LZ4F_getVersion() != _VERSION:
            return None
        found.LZ4F_decompress.restype = ctypes.c_size_t
        found.LZ4F_decompress.argtypes = (
            ctypes.c_void_p,
            ctypes.c_void_p,
            ctypes.POINTER(ctypes.c_size_t),
            ctypes.c_void_p,
            ctypes.POINTER(ctypes.c_size_t),
            ctypes.POINTER(_Options),
        )
        for name in ("LZ4F_createDecompressionContext", "LZ4F_isError"):
            getattr(found, name).restype = ctypes.c_size_t
        found.LZ4F_createDecompressionContext.argtypes = (
            ctypes.POINTER(ctypes.c_void_p),
            ctypes.c_uint,
        )
        found.LZ4F_freeDecompressionContext.argtypes = (ctypes.c_void_p,)
        found.LZ4F_isError.argtypes = (ctypes.c_size_t,)
    except (OSError, AttributeError):
        return None
    return found


def has_library() -> bool:
    """Return whether the system has a liblz4 that is new enough."""
    return _library() is not None


def _context(library: Any) -> ctypes.c_void_p:
    try:
        return _idle.pop()
    except IndexError:
        context = ctypes.c_void_p()
        if library.LZ4F_createDecompressionContext(ctypes.byref(context), _VERSION):
            raise MemoryError from None
        return context


def unpack_frame(frame: memoryview, destination: memoryview) -> None:
    """Write what one frame holds, which must be as many bytes as the destination has.

    Raises
    ------
    ValueError
        If the frame is corrupt, or not one frame of that length.

    Notes
    -----
    **Copies**: none besides the bytes made. Other threads run meanwhile.
    """
    library = _library()
    source, target = buffer_of(frame), buffer_of(destination)
    context = _context(library)
    read = written = 0
    is_whole = False
    try:
        while True:
            taken = ctypes.c_size_t(source.size - read)
            made = ctypes.c_size_t(target.size - written)
            left = library.LZ4F_decompress(
                context,
                target.address + written,
                ctypes.byref(made),
                source.address + read,
                ctypes.byref(taken),
                ctypes.byref(_STABLE),
            )
            read += taken.value
            written += made.value
            if left == 0:
                is_whole = True
                break
            if library.LZ4F_isError(left) or not taken.value + made.value:
                raise ValueError(f"a frame that ends after {written} bytes")
    finally:
        if is_whole and len(_idle) < _MOST_IDLE:
            _idle.append(context)  # it begins a frame next
        else:
            library.LZ4F_freeDecompressionContext(context)
    if read != source.size or written != target.size:
        raise ValueError(f"{written} bytes, with {source.size - read} after the frame")


Allocate: TypeAlias = Callable[[int], Any]
"""Return writable memory of the given size, aligned to 64 bytes."""

STORED: Final = (-1).to_bytes(8, "little", signed=True)
"""The length of a buffer that is stored uncompressed."""

_ZEROS: Final = bytes(ALIGNMENT)

ALONE_NBYTES: Final = 2**20
"""Fewer bytes are decompressed faster than a thread starts."""


def claimed_lengths(spans: ChainedBuffer, body_at: int, metadata: BatchMetadata) -> tuple[int, ...]:
    """Return the claimed uncompressed length of each buffer; nothing is decompressed.

    Raises
    ------
    IntegrityError, TruncatedError
        If a length is missing or too large for the compressed bytes.
    """
    ratio = RATIO[metadata.codec or "lz4"]
    lengths = []
    for index, (offset, nbytes) in enumerate(_pairs(metadata.buffers)):
        path = f"$.buffers[{index}]"
        claimed = 0
        if nbytes:
            if nbytes < 8:
                raise TruncatedError(
                    "the length before compressed bytes is missing", path=path, code="compression"
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
    spans: ChainedBuffer, body_at: int, metadata: BatchMetadata, lengths: tuple[int, ...]
) -> Bytes:
    """Return the column buffers as a plain body has them; no byte of a data buffer is read.

    Raises
    ------
    IntegrityError
        If a buffer is no frame of its claimed length.
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
    spans: ChainedBuffer, body_at: int, metadata: BatchMetadata, lengths: tuple[int, ...]
) -> None:
    """Raise when a data buffer is no frame of its claimed length.

    For a batch whose columns already contradict the lengths, so that the error names the wrong
    length and not a view that disagrees with it.

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


def _part(spans: ChainedBuffer, at: int, nbytes: int, destination: memoryview, path: str) -> _Part:
    # Read separately, because a stored chunk may be a frame of its own and would be joined.
    is_frame = spans.read(at, 8) != STORED
    return _Part(is_frame, spans.read(at + 8, nbytes - 8), destination, path)


def decompress_tensors(
    spans: ChainedBuffer, rows: Sequence[Row], codec: str, *, allocate: Allocate | None = None
) -> None:
    """Replace each Place among the rows' data by its bytes, on all cores.

    The chunks of a tensor are written next to each other, so that one view covers it. All lengths
    must have been checked against the limits and the shape.

    Parameters
    ----------
    spans : ChainedBuffer
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
        If a buffer is no frame of its claimed length.
    DecodeError
        If its first bytes are not those in its view.

    Notes
    -----
    **Copies**: each byte is written once. **Cost**: each thread also holds about a megabyte,
    independent of the sizes.
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
    """Yield adjacent memory for the chunks; the codes of a dictionary are aligned."""
    padding = -len(data[0]) % ALIGNMENT if has_table else 0
    nbytes = sum(map(len, data)) + padding
    memory = memoryview(allocate(nbytes)).cast("B")
    if memory.readonly or len(memory) < nbytes:
        # The library gets the address, and would write there regardless.
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
