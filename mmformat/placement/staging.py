"""Pageable memory to the device: chunk by chunk through a few pinned buffers, overlapped."""

from __future__ import annotations

import functools
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from mmformat.placement.lane import Lane

if TYPE_CHECKING:
    import torch

__all__ = ["Staging", "staging_of"]

CHUNK_NBYTES: Final = 4 * 2**20
"""Long enough that a copy's fixed cost is small, short enough that the first one starts soon."""

CHUNKS: Final = 4


class Staging:
    """Own the pinned buffers of one device.

    Parameters
    ----------
    device : torch.device
        Where the bytes go.
    chunk_nbytes, chunks : int
        Size and number of the buffers, which are kept for the life of the process.

    Notes
    -----
    **Copies**: each byte once into pinned memory, by the CPU, and from there over the bus; the CPU
    fills one buffer while the device reads the others.
    """

    def __init__(
        self, device: torch.device, *, chunk_nbytes: int = CHUNK_NBYTES, chunks: int = CHUNKS
    ) -> None:
        self._device = device
        self._chunk_nbytes = chunk_nbytes
        self._buffers: list[torch.Tensor] = []
        self._events: list[torch.cuda.Event | None] = [None] * chunks
        self._next = 0
        self._mutex = threading.Lock()

    def copy(self, sources: Sequence[torch.Tensor], target: torch.Tensor, lane: Lane) -> None:
        """Copy the sources, behind each other, to ``target``; they may change after this returns.

        Parameters
        ----------
        sources : sequence of uint8 tensors, one axis, on the CPU
            Together as long as the target.
        target : uint8 tensor, one axis, on the device
            It is complete when what ``lane`` was given is done.
        lane : Lane
            Of the same device; its side stream is current.
        """
        with self._mutex:
            at = index = used = 0
            while at < target.numel():
                chunk, filled = self._take(), 0
                while filled < len(chunk) and index < len(sources):
                    piece = sources[index][used : used + len(chunk) - filled]
                    chunk[filled : filled + len(piece)].copy_(piece)
                    filled, used = filled + len(piece), used + len(piece)
                    if used == len(sources[index]):
                        index, used = index + 1, 0
                target[at : at + filled].copy_(chunk[:filled], non_blocking=True)
                self._events[self._next] = lane.mark()
                self._next = (self._next + 1) % len(self._events)
                at += filled

    def _take(self) -> torch.Tensor:
        if not self._buffers:
            self._buffers = [self._empty() for _ in self._events]
        event = self._events[self._next]
        if event is not None:
            event.synchronize()
        return self._buffers[self._next]

    def _empty(self) -> torch.Tensor:
        import torch

        return torch.empty(
            self._chunk_nbytes, dtype=torch.uint8, pin_memory=self._device.type == "cuda"
        )


@functools.cache
def staging_of(device: torch.device) -> Staging:
    """Return this process's staging buffers of a device."""
    return Staging(device)
