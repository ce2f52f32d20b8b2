"""The bytes of a message in one or more buffers, without joining them."""

from __future__ import annotations

import mmap
import os
import stat
from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmformat.errors import DecodeError, TruncatedError
from mmformat.model.message import EncodedMessage

__all__ = [
    "ChainedBuffer",
    "open_chained",
]

_OPTIONS = os.O_NONBLOCK | os.O_CLOEXEC


class ChainedBuffer:
    """A message in one or more buffers, read by ranges.

    Parameters
    ----------
    frames : sequence of buffers
        Joined, they are the message.

    Notes
    -----
    **Copies**: none where a range lies in one frame; a range that crosses frames is joined.
    """

    __slots__ = ("_starts", "_views", "nbytes")

    def __init__(self, frames: Sequence[Any]) -> None:
        # An empty view cannot be cast.
        views = [memoryview(frame) for frame in frames]
        self._views = [view.cast("B") for view in views if view.nbytes]
        self._starts = [0]
        for view in self._views:
            self._starts.append(self._starts[-1] + len(view))
        self.nbytes = self._starts.pop()

    @property
    def frames(self) -> list[memoryview]:
        """The buffers that, joined, are the message."""
        return self._views

    def read(self, start: int, nbytes: int) -> memoryview:
        """Return ``nbytes`` bytes from ``start``.

        Raises
        ------
        TruncatedError
            If the message is shorter.
        """
        if start < 0 or nbytes < 0 or start + nbytes > self.nbytes:
            raise TruncatedError(
                f"expected {nbytes:,} bytes at byte {start:,}, got a message of {self.nbytes:,}"
            )
        if nbytes == 0:
            return memoryview(b"")
        index = bisect_right(self._starts, start) - 1
        view = self._views[index]
        at = start - self._starts[index]
        if at + nbytes <= len(view):
            return view[at : at + nbytes]
        pieces = []
        while nbytes:
            piece = self._views[index][at : at + nbytes]
            pieces.append(piece)
            nbytes -= len(piece)
            index, at = index + 1, 0
        return memoryview(b"".join(pieces))


def open_chained(source: Any) -> ChainedBuffer:
    """Return the bytes of a message, of a buffer, of a list of frames, or of a file (mapped).

    Raises
    ------
    DecodeError
        If the source has another type, or the file cannot be mapped.
    """
    if isinstance(source, EncodedMessage):
        return ChainedBuffer(source.frames)
    if isinstance(source, (str, os.PathLike)):
        return ChainedBuffer([_map_file(Path(source))])
    try:
        return ChainedBuffer(source if isinstance(source, (list, tuple)) else [source])
    except (TypeError, ValueError) as error:
        raise DecodeError(
            "expected a message, bytes, a contiguous buffer, frames or a path, "
            f"got {type(source).__name__}",
            code="source",
        ) from error


def _map_file(path: Path) -> mmap.mmap | bytes:
    try:
        # Without O_NONBLOCK, opening a pipe blocks until it has a writer.
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | _OPTIONS)) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise DecodeError(f"expected a file, got {path}", code="source")
            if status.st_size == 0:
                return b""
            # Copy-on-write: a tensor that is written to never changes the file.
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    except (OSError, ValueError) as error:
        raise DecodeError(f"expected a readable file, got: {error}", code="source") from error
