"""Bytes that protocols 0 to 2 wrote as text, made bytes again piece by piece."""

from __future__ import annotations

import mmap
from typing import Any, Final

import numpy as np

from mmformat.errors import DecodeError
from mmformat.legacy.nodes import Name

__all__ = ["LONG_NBYTES", "LatinText", "give_back", "long_text"]

LONG_NBYTES: Final = 2**18
"""Text from this size on is not decoded before it is known what it is for."""

_PIECE_NBYTES: Final = 2**18
_AROUND_NBYTES: Final = 2**18
_ENCODERS: Final = frozenset({"encode-latin1", "bytearray"})
_CHARACTER_NBYTES: Final = 4


def long_text(source: memoryview, begin: int, end: int, stack: list[Any]) -> Any:
    """Return the text between two positions: as it is, when it will be encoded to bytes.

    A pickle writes the function first, then the text.
    """
    view = source[begin:end]
    if stack and type(stack[-1]) is Name and stack[-1].kind in _ENCODERS:
        return LatinText(view)
    return str(view, "utf-8", "surrogatepass")


class LatinText:
    """Stand for long UTF-8 text of the file that only ``_codecs.encode`` and ``bytearray`` take."""

    __slots__ = ("_source",)

    def __init__(self, source: memoryview) -> None:
        self._source = source

    def encoded(self, path: str) -> memoryview:
        """Return its characters as latin-1 bytes.

        Raises
        ------
        DecodeError
            For a character over U+00FF, or text that is no UTF-8.

        Notes
        -----
        **Copies**: each byte once. The text is never whole in memory: its pages in the file are
        given back as they are read.
        """
        source, size = self._source, len(self._source)
        # Private and from the kernel itself, so that pages can go back to it one by one.
        try:
            target = mmap.mmap(-1, max(1, size), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except OSError as error:
            raise MemoryError from error
        filled = position = 0
        while position < size:
            end = min(position + _PIECE_NBYTES, size)
            for _ in range(_CHARACTER_NBYTES - 1):
                if end < size and source[end] & 0xC0 == 0x80:
                    end -= 1  # not within a character
            try:
                piece = str(source[position:end], "utf-8").encode("latin-1")
            except ValueError:
                raise DecodeError("expected text of latin-1", path=path) from None
            target[filled : filled + len(piece)] = piece
            filled += len(piece)
            give_back(source, position, end)
            position = end
        return memoryview(target)[:filled]


def give_back(view: memoryview, begin: int, end: int) -> None:
    """Let the kernel take the pages of a mapping between two positions of a view of it.

    A file's pages are clean and come back when they are read again. Memory without a file comes
    back as zeros: only who reads it last, and in order, may give it back.
    """
    mapping = view.obj
    if not isinstance(mapping, mmap.mmap) or begin >= end:
        return
    start = np.frombuffer(view, np.uint8).ctypes.data
    start -= np.frombuffer(mapping, np.uint8).ctypes.data
    # From a little earlier: a fault also maps the pages before its own, which had been given back.
    first = -(-(start + max(0, begin - _AROUND_NBYTES)) // mmap.PAGESIZE) * mmap.PAGESIZE
    last = (start + end) // mmap.PAGESIZE * mmap.PAGESIZE
    if last > first:
        mapping.madvise(mmap.MADV_DONTNEED, first, last - first)
