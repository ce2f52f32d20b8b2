"""A message's bytes on the device, and its tensors as views of them."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mmformat._arrow import buffer_of

if TYPE_CHECKING:
    import torch

__all__ = ["FrameMap", "Landing"]


class FrameMap:
    """Find at which byte of a message an address of the host lies.

    Parameters
    ----------
    frames : sequence of buffers
        Joined, they are the message.

    Examples
    --------
    >>> frames = FrameMap([bytes(64), bytes(100)])
    >>> frames.nbytes, frames.find(0, 1) is None
    (164, True)
    """

    __slots__ = ("_extents", "frames", "nbytes")

    def __init__(self, frames: Sequence[Any]) -> None:
        self.frames = [buffer_of(frame) for frame in frames]
        extents = []
        at = 0
        for frame in self.frames:
            if frame.size:
                extents.append((frame.address, frame.size, at))
            at += frame.size
        self.nbytes = at
        self._extents = sorted(extents)

    def find(self, address: int, nbytes: int) -> int | None:
        """Return the byte of the message, or None when the range is not within one frame."""
        index = bisect_right(self._extents, (address, 2**63, 0)) - 1
        if index < 0:
            return None
        start, size, at = self._extents[index]
        return at + address - start if address + nbytes <= start + size else None

    def pieces(self, start: int, end: int) -> list[torch.Tensor]:
        """Return the bytes ``start`` to ``end`` of the message as uint8 tensors over the frames.

        Notes
        -----
        **Copies**: none.
        """
        found = []
        for address, size, at in sorted(self._extents, key=lambda extent: extent[2]):
            first, last = max(start, at), min(end, at + size)
            if first < last:
                found.append(_host_bytes(address + first - at, last - first, self.frames))
        return found


class Landing:
    """Hold part of a message on a device, as one allocation.

    Parameters
    ----------
    buffer : uint8 tensor, one axis
        The bytes from ``start`` on.
    frames : FrameMap
        Where the same bytes lie on the host.
    start : int
        Byte of the message at which the buffer begins, a multiple of 64.
    """

    __slots__ = ("_buffer", "_first", "_frames", "_start", "_storage")

    def __init__(self, buffer: torch.Tensor, frames: FrameMap, *, start: int = 0) -> None:
        self._buffer = buffer
        self._frames = frames
        self._start = start
        self._storage = buffer.untyped_storage()
        self._first = buffer.storage_offset()

    def view(self, host: torch.Tensor) -> torch.Tensor | None:
        """Return the device's view of a tensor over a frame, or None for one that lies elsewhere.

        Notes
        -----
        **Copies**: none. **Lifetime**: the view keeps the whole allocation.
        """
        return self._at(host.data_ptr(), host.nbytes, host.dtype, host.shape)

    def take(self, chunk: Any, dtype: torch.dtype, shape: Sequence[int]) -> torch.Tensor | None:
        """Return the device's view of a chunk over a frame, as a tensor in C order, or None.

        No tensor is made on the host for it, which costs more than the view.

        Notes
        -----
        **Copies**: none. **Lifetime**: the view keeps the whole allocation.
        """
        buffer = buffer_of(chunk)
        return self._at(buffer.address, buffer.size, dtype, shape)

    def _at(
        self, address: int, nbytes: int, dtype: torch.dtype, shape: Sequence[int]
    ) -> torch.Tensor | None:
        at = self._frames.find(address, nbytes) if nbytes else None
        if at is None or at < self._start or at + nbytes > self._start + self._buffer.numel():
            return None
        strides = []
        step = 1
        for extent in reversed(shape):
            strides.append(step)
            step *= extent
        # Not slices of the buffer: reinterpreting, slicing and shaping are three steps more.
        made = self._buffer.new_empty(0, dtype=dtype)
        first = (self._first + at - self._start) // dtype.itemsize
        return made.set_(self._storage, first, shape, strides[::-1])


def _host_bytes(address: int, nbytes: int, owner: object) -> torch.Tensor:
    import ctypes

    import torch

    # torch.frombuffer warns at every read-only buffer, and nothing is written here.
    array = (ctypes.c_char * nbytes).from_address(address)
    array._owner = owner  # type: ignore[attr-defined]  # keeps the bytes alive
    return torch.frombuffer(array, dtype=torch.uint8)
