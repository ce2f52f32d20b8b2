"""A device's side stream: copies run beside the caller's work, and events order the two."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Final

from mmformat.cuda.cudart import HOST_TO_DEVICE, library, words_of
from mmformat.errors import PlacementError

if TYPE_CHECKING:
    import torch

__all__ = ["Lane", "lane_of"]

AHEAD_NBYTES: Final = 2**26
"""Larger messages take so long that an allocation before them is not seen."""


class Lane:
    """Run copies and expansions on a stream of their own.

    Parameters
    ----------
    device : torch.device
        A CUDA device; on the CPU everything runs at once and there is nothing to order.

    Notes
    -----
    **Lifetime**: what is allocated inside :meth:`side` belongs to the side stream in torch's
    caching allocator; :meth:`join` tells it which other stream uses it.
    """

    __slots__ = (
        "_cuda", "_empty", "_index", "_last_nbytes", "_pointer", "_rooms", "_stream", "device",
    )  # fmt: skip

    def __init__(self, device: torch.device) -> None:
        import torch

        self._cuda: Any = torch.cuda  # torch leaves its streams and events untyped
        self.device = device
        self._index = device.index or 0
        self._stream: Any = self._cuda.Stream(device) if device.type == "cuda" else None
        self._empty = functools.partial(torch.empty, dtype=torch.uint8, device=device)
        self._rooms: list[torch.Tensor] = []
        self._last_nbytes = 0
        self._pointer: int = 0 if self._stream is None else self._stream.cuda_stream

    def side(self) -> AbstractContextManager[object]:
        """Make the side stream, and its device, the current ones."""
        return nullcontext() if self._stream is None else _Side(self._stream, self._index)

    def bring(self, target: torch.Tensor, source: int, nbytes: int) -> None:
        """Start filling a tensor from an address of pinned host memory, on the side stream.

        Parameters
        ----------
        target : uint8 tensor, one axis
            At least ``nbytes`` long; allocated inside :meth:`side`.
        source : int
            Where the bytes are; the side stream need not be the current one.
        nbytes : int
            How many.

        Raises
        ------
        PlacementError
            With code ``copy`` when it cannot be started.

        Notes
        -----
        ``Tensor.copy_`` does the same, and took 50 microseconds where this takes 30 when other
        work had the processor's caches before; the copy begins that much earlier.
        """
        words = words_of(
            library().cudaMemcpyAsync(
                target.data_ptr(), source, nbytes, HOST_TO_DEVICE, self._pointer
            )
        )
        if words is not None:
            raise PlacementError(f"expected to copy to {self.device}, got {words}", code="copy")

    def ahead(self, nbytes: int) -> torch.Tensor | None:
        """Return room for so many bytes that was allocated before, if there is any that fits.

        None as well when another device is the thread's current one: a copy cannot begin at once.
        """
        try:
            room = self._rooms.pop()
        except IndexError:
            return None
        fits = 0 <= room.numel() - nbytes <= nbytes // 8
        return room if fits and _calls()._cuda_getDevice() == self._index else None

    def prepare(self, nbytes: int) -> None:
        """Allocate ahead for the next message, once two of about one size came behind each other.

        Inside :meth:`side`, while a copy flies: it then costs nothing, where before the next copy
        it would cost 30 microseconds.
        """
        last, self._last_nbytes = self._last_nbytes, nbytes
        if nbytes > AHEAD_NBYTES or not 0 <= last - nbytes <= nbytes // 8 or self._rooms:
            return
        try:
            self._rooms.append(self._empty(last))
        except RuntimeError:
            # The device is full. The next message will say so, if it still is then.
            return

    def mark(self) -> torch.cuda.Event | None:
        """Record an event behind everything that the side stream was given so far."""
        if self._stream is None:
            return None
        # blocking: a host thread that waits for it sleeps, and lets Python go on.
        event: torch.cuda.Event = self._cuda.Event(blocking=True)
        event.record(self._stream)
        return event

    def borrow(self, tensor: torch.Tensor) -> None:
        """Write to a caller's tensor only behind what its current stream was given so far."""
        if self._stream is not None:
            self._stream.wait_stream(self._cuda.current_stream(self._index))
            tensor.record_stream(self._stream)

    def join(self, event: torch.cuda.Event | None, tensors: Iterable[torch.Tensor]) -> None:
        """Make the caller's current stream wait for ``event``, and own ``tensors`` as well."""
        if event is None:
            return
        current = self._cuda.current_stream(self._index)
        current.wait_event(event)
        for tensor in tensors:
            tensor.record_stream(current)


class _Side:
    """Switch to a stream and back.

    ``torch.cuda.stream`` does the same, and takes a tenth of a small message's time for it; so do
    torch's public functions for the current stream, which are these calls in several wrappers.
    """

    __slots__ = ("_before", "_device", "_index", "_stream")

    def __init__(self, stream: Any, index: int) -> None:
        self._stream = stream
        self._index = index

    def __enter__(self) -> None:
        calls = _calls()
        self._device = calls._cuda_getDevice()
        self._before: tuple[int, int, int] = calls._cuda_getCurrentStream(self._index)
        stream = self._stream
        # It makes the stream's device the current one, too.
        calls._cuda_setStream(stream.stream_id, stream.device_index, stream.device_type)

    def __exit__(self, *_: object) -> None:
        calls = _calls()
        calls._cuda_setStream(*self._before)
        if self._device != self._index:
            # set_device() would make a context there, half a gigabyte, for a rank that never
            # uses that device.
            calls._cuda_maybeExchangeDevice(self._device)


@functools.cache
def _calls() -> Any:
    import torch

    return torch._C


@functools.cache
def lane_of(device: torch.device) -> Lane:
    """Return this process's lane of a device."""
    return Lane(device)
