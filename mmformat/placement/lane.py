"""A device's side stream: copies run beside the caller's work, and events order the two."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

__all__ = ["Lane", "lane_of"]


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

    __slots__ = ("_index", "_stream", "device")

    def __init__(self, device: torch.device) -> None:
        import torch

        cuda: Any = torch.cuda  # torch leaves its streams and events untyped
        self.device = device
        self._index = device.index or 0
        self._stream: Any = cuda.Stream(device) if device.type == "cuda" else None

    def side(self) -> AbstractContextManager[object]:
        """Make the side stream, and its device, the current ones."""
        return nullcontext() if self._stream is None else _Side(self._stream, self._index)

    def mark(self) -> torch.cuda.Event | None:
        """Record an event behind everything that the side stream was given so far."""
        import torch

        if self._stream is None:
            return None
        cuda: Any = torch.cuda
        # blocking: a host thread that waits for it sleeps, and lets Python go on.
        event: torch.cuda.Event = cuda.Event(blocking=True)
        event.record(self._stream)
        return event

    def borrow(self, tensor: torch.Tensor) -> None:
        """Write to a caller's tensor only behind what its current stream was given so far."""
        import torch

        if self._stream is not None:
            self._stream.wait_stream(torch.cuda.current_stream(self._index))
            tensor.record_stream(self._stream)

    def join(self, event: torch.cuda.Event | None, tensors: Iterable[torch.Tensor]) -> None:
        """Make the caller's current stream wait for ``event``, and own ``tensors`` as well."""
        import torch

        if event is None:
            return
        current = torch.cuda.current_stream(self._index)
        current.wait_event(event)
        for tensor in tensors:
            tensor.record_stream(current)


class _Side:
    """Switch to a stream and back.

    ``torch.cuda.stream`` does the same, and takes a tenth of a small message's time for it.
    """

    __slots__ = ("_before", "_device", "_index", "_stream")

    def __init__(self, stream: Any, index: int) -> None:
        self._stream = stream
        self._index = index

    def __enter__(self) -> None:
        import torch

        self._device = torch.cuda.current_device()
        self._before: Any = torch.cuda.current_stream(self._index)
        torch.cuda.set_stream(self._stream)

    def __exit__(self, *_: object) -> None:
        import torch

        torch.cuda.set_stream(self._before)
        if self._device != self._index:
            # set_device() would make a context there, half a gigabyte, for a rank that never
            # uses that device.
            cuda: Any = torch.cuda
            cuda._maybe_exchange_device(self._device)


@functools.cache
def lane_of(device: torch.device) -> Lane:
    """Return this process's lane of a device."""
    return Lane(device)
