"""Frames of LZ4 and Zstandard, walked block by block before a byte of them is decompressed."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final

from mmformat.codec.rows import Bytes
from mmformat.errors import DecodeError, IntegrityError

__all__ = ["RATIO", "check_frame"]

RATIO: Final = {"lz4": 255, "zstd": 2**15}
"""More bytes than this cannot be made of one: an LZ4 sequence's last byte stands for 255, and a
Zstandard block of 4 bytes for 128 KiB."""

MAGIC: Final = {"lz4": b"\x04\x22\x4d\x18", "zstd": b"\x28\xb5\x2f\xfd"}

WINDOW_NBYTES: Final = 8 * 2**20
"""The largest window of Zstandard that RFC 8878 asks of every decoder; more costs memory."""

_WORD: Final = struct.Struct("<I")
_SIZES: Final = (0, 2, 4, 8)


def check_frame(frame: Bytes, nbytes: int, codec: str, *, path: str) -> None:
    """Raise unless the bytes are one frame, which may hold ``nbytes`` bytes.

    Raises
    ------
    DecodeError
        With code ``compression-codec``, for a frame of another codec.
    IntegrityError
        With code ``compression``, for all else.

    Notes
    -----
    **Cost**: a step for each block; of more blocks than one for each 4 KiB, and 16, none is walked.
    What is inside the blocks is left to the codec's library.
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
    behind = 4 if has_block_sums else 0
    for _ in range(_most_blocks(nbytes) + 1):  # the end's mark is a word too
        (word,) = _WORD.unpack_from(view, at)
        at += 4
        if word == 0:
            return at + (4 if has_sum else 0)
        at += (word & 0x7FFFFFFF) + behind
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
