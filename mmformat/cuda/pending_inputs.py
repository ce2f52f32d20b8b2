"""Inputs on their way to a device: the copy runs, and the caller goes on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from mmformat.cuda.copy_stream import Lane
from mmformat.cuda.decode import decode_staged, lend
from mmformat.model.item import MultimodalInputs
from mmformat.model.limits import Limits
from mmformat.model.message import EncodedMessage

if TYPE_CHECKING:
    import torch

__all__ = ["JoinedInputs", "PendingInputs", "staged"]


class PendingInputs:
    """Hold inputs whose bytes may still be on the bus.

    Made by :meth:`ArenaReader.get_async`.

    Notes
    -----
    **Lifetime**: dropping it before :meth:`result` is safe: the memory is used again only behind
    the copy.
    """

    __slots__ = ("_event", "_inputs", "_lane", "_tensors")

    def __init__(
        self,
        inputs: MultimodalInputs,
        *,
        lane: Lane | None = None,
        event: torch.cuda.Event | None = None,
        tensors: Sequence[torch.Tensor] = (),
    ) -> None:
        self._inputs = inputs
        self._lane = lane
        self._event = event
        self._tensors = tensors

    @property
    def done(self) -> bool:
        """Whether everything has arrived; asking does not wait."""
        event: Any = self._event  # torch leaves its events untyped
        return event is None or bool(event.query())

    def result(self) -> MultimodalInputs:
        """Return the inputs; the caller's current stream waits for them, the caller does not."""
        if self._lane is not None:
            self._lane.join(self._event, self._tensors)
        return self._inputs


class JoinedInputs(PendingInputs):
    """Hold inputs that come in several copies, and put them together when they are asked for."""

    __slots__ = ("_join", "_parts")

    def __init__(
        self, parts: Sequence[PendingInputs], join: Callable[[], MultimodalInputs]
    ) -> None:
        super().__init__(MultimodalInputs())
        self._parts = parts
        self._join = join

    @property
    def done(self) -> bool:
        """Whether everything has arrived; asking does not wait."""
        return all(part.done for part in self._parts)

    def result(self) -> MultimodalInputs:
        """Return the inputs; the caller's current stream waits for them, the caller does not."""
        return self._join()


def staged(
    message: EncodedMessage,
    *,
    lane: Lane,
    limits: Limits | None,
    expand: bool,
    out: torch.Tensor | None,
) -> PendingInputs:
    """Return the inputs of a message that came inline, on their way through staging buffers.

    Raises
    ------
    DecodeError, LimitError, PlacementError
        As :func:`mmformat.decode`.
    """
    if out is not None:
        lend(out, lane)
    with lane.side():
        inputs, tensors = decode_staged(message, lane=lane, limits=limits, expand=expand, out=out)
        return PendingInputs(inputs, lane=lane, event=lane.mark(), tensors=tensors)
