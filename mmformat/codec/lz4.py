"""LZ4 frames undone by the system's own library, straight to where their bytes belong."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any, Final

from mmformat._arrow import buffer_of

__all__ = ["has_library", "unpack_frame"]

_VERSION: Final = 100
"""Of LZ4F's interface."""

_OLDEST: Final = 10904
"""1.9.4: older ones lack mended bounds, and may take bytes of the destination for a match."""


class _Options(ctypes.Structure):
    """``LZ4F_decompressOptions_t``."""

    _fields_ = (
        ("stable_destination", ctypes.c_uint),
        ("skip_checksums", ctypes.c_uint),
        ("reserved", ctypes.c_uint * 2),
    )


_STABLE: Final = _Options(1, 0, (0, 0))
"""What was written stays there, so that the library need keep no copy of it for later matches."""


_MOST_IDLE: Final = 16
_idle: list[ctypes.c_void_p] = []
"""Contexts between two frames, about 250 KB each: a new one costs a twentieth of a chunk's time."""


@cache
def _library() -> Any:
    """Return liblz4, or None: most Linux systems have one, and pyarrow does not lend its own."""
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
    """Say whether the system has a library that is new enough."""
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
        When the frame is corrupt, or not one frame of that length.

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
                raise ValueError(f"a frame that breaks off after {written} bytes")
    finally:
        if is_whole and len(_idle) < _MOST_IDLE:
            _idle.append(context)  # it begins a frame next
        else:
            library.LZ4F_freeDecompressionContext(context)
    if read != source.size or written != target.size:
        raise ValueError(f"{written} bytes, and {source.size - read} behind the frame")
