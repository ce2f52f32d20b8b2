"""Pageable memory to the device: chunk by chunk through a few pinned buffers, overlapped."""

from __future__ import annotations

import functools
import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from mmformat.cuda.copy_stream import Lane

if TYPE_CHECKING:
    import torch

__all__ = ["Staging", "staging_of"]

CHUNK_NBYTES: Final = 4 * 2**20
"""Long enough that a copy's fixed cost is small, short enough that the first one starts soon."""

CHUNKS: Final = 6

THREADS: Final = 4
"""Enough to fill buffers faster than the bus empties them, few enough for a small machine."""

_Bytes: TypeAlias = npt.NDArray[np.uint8]


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
    **Copies**: each byte once into pinned memory, by the CPU, and from there over the bus; a few
    threads fill buffers while the device reads the others. Not torch's own threads: on a machine
    of 64 cores their copy of 26 MB took 40 ms where one plain thread took 2.
    """

    def __init__(
        self, device: torch.device, *, chunk_nbytes: int = CHUNK_NBYTES, chunks: int = CHUNKS
    ) -> None:
        self._device = device
        self._chunk_nbytes = chunk_nbytes
        self._buffers: list[torch.Tensor] = []
        self._events: list[torch.cuda.Event | None] = [None] * chunks
        self._threads: ThreadPoolExecutor | None = None
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
        total = target.numel()
        if not total:
            return
        with self._mutex:
            if not self._buffers:
                self._buffers = [self._empty() for _ in self._events]
            plan = _cut([source.numpy() for source in sources], self._chunk_nbytes)
            if len(plan) == 1:
                buffer = self._take()
                self._send(buffer, _fill(self._buffers[buffer], plan[0]), target, lane)
                return
            if self._threads is None:
                self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="mmformat-staging")
            filling: deque[tuple[int, Future[int]]] = deque()
            at = 0
            try:
                for pieces in plan:
                    if len(filling) == min(len(self._buffers), THREADS + 1):
                        at += self._finish(filling.popleft(), target[at:], lane)
                    buffer = self._take()
                    future = self._threads.submit(_fill, self._buffers[buffer], pieces)
                    filling.append((buffer, future))
                while filling:
                    at += self._finish(filling.popleft(), target[at:], lane)
            finally:
                wait([future for _, future in filling])  # after an error nothing reads the sources

    def _take(self) -> int:
        """Return the next buffer, when the device has read what it held."""
        index = self._next
        self._next = (index + 1) % len(self._buffers)
        event = self._events[index]
        if event is not None:
            event.synchronize()
        return index

    def _finish(self, filled: tuple[int, Future[int]], target: torch.Tensor, lane: Lane) -> int:
        buffer, future = filled
        return self._send(buffer, future.result(), target, lane)

    def _send(self, buffer: int, nbytes: int, target: torch.Tensor, lane: Lane) -> int:
        target[:nbytes].copy_(self._buffers[buffer][:nbytes], non_blocking=True)
        self._events[buffer] = lane.mark()
        return nbytes

    def _empty(self) -> torch.Tensor:
        import torch

        return torch.empty(
            self._chunk_nbytes, dtype=torch.uint8, pin_memory=self._device.type == "cuda"
        )


def _cut(sources: Sequence[_Bytes], chunk_nbytes: int) -> list[list[_Bytes]]:
    """Return the sources in lists that each fill a buffer, the last one as far as they reach."""
    plan: list[list[_Bytes]] = [[]]
    room = chunk_nbytes
    for source in sources:
        at = 0
        while at < source.size:
            if not room:
                plan.append([])
                room = chunk_nbytes
            piece = source[at : at + room]
            plan[-1].append(piece)
            at += piece.size
            room -= piece.size
    return plan


def _fill(buffer: torch.Tensor, pieces: Sequence[_Bytes]) -> int:
    room = buffer.numpy()
    at = 0
    for piece in pieces:
        room[at : at + piece.size] = piece  # numpy lets other threads run meanwhile
        at += piece.size
    return at


@functools.cache
def staging_of(device: torch.device) -> Staging:
    """Return this process's staging buffers of a device."""
    return Staging(device)
