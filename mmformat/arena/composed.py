"""A rank's way to a request whose items lie in slots of their own: all of them, or an error."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from mmformat.arena.index import composed, unpack_index
from mmformat.codec.decode import Library
from mmformat.cuda.copy_stream import Lane
from mmformat.cuda.decode import decode
from mmformat.cuda.pending_inputs import JoinedInputs, PendingInputs, staged
from mmformat.errors import PlacementError, StaleHandleError
from mmformat.model.item import MultimodalInputs
from mmformat.model.limits import Limits
from mmformat.model.message import EncodedMessage
from mmformat.shm import Handle, Hold, ShmReader

if TYPE_CHECKING:
    import torch

__all__ = ["fetch_composed", "get_composed", "release_composed"]


def get_composed(
    transport: ShmReader,
    handle: Handle,
    *,
    limits: Limits | None,
    library: Library | None,
    expand: bool,
) -> MultimodalInputs:
    """Return the inputs of a composed handle, over the pages of all its slots.

    Raises
    ------
    StaleHandleError, TransportError, DecodeError, LimitError
        As :meth:`mmformat.ArenaReader.get`; nothing of the request is held then.

    Notes
    -----
    **Copies**: none. **Lifetime**: any tensor keeps all the slots, as a message's tensors keep
    their one slot; the last one releases them.
    """
    mapping = transport.map(handle)
    entries, message = unpack_index(memoryview(mapping), handle)
    # Every slot is held before any is decoded, by a value that each of the mappings keeps.
    holds = _held(transport, [handle, *(entry.handle for entry in entries)])
    mapping.keep(holds)
    bounds = Limits.of(limits)
    bounds.check("message_nbytes", len(message) + sum(entry.handle.nbytes for entry in entries))
    inputs = decode(message, limits=bounds, library=library, expand=expand)
    contents = {}
    for number, item in entries:
        mapping = transport.map(item)
        mapping.keep(holds)
        contents[number] = decode(mapping, limits=bounds, library=library, expand=expand)
    return composed(inputs, contents)


def fetch_composed(
    transport: ShmReader,
    handle: Handle,
    *,
    lane: Lane,
    fetch: Callable[[Handle], PendingInputs],
    limits: Limits | None,
    expand: bool,
    out: torch.Tensor | None,
) -> PendingInputs:
    """Start the copies of all slots of a composed handle to a device.

    Parameters
    ----------
    fetch : callable
        Starts the copy of one slot.

    Raises
    ------
    StaleHandleError, TransportError, DecodeError, LimitError, PlacementError
        As :meth:`mmformat.ArenaReader.get_async`.

    Notes
    -----
    **Copies**: as of one slot, each; what belongs to the request is staged.
    """
    if out is not None:
        raise PlacementError(
            "expected no destination for a request whose items lie in slots of their own",
            path="$.out",
            hint="put with reuse='request', or leave out= out",
            code="destination",
        )
    mapping = transport.map(handle)
    entries, message = unpack_index(memoryview(mapping), handle)
    holds = _held(transport, [entry.handle for entry in entries])
    nbytes = len(message) + sum(entry.handle.nbytes for entry in entries)
    Limits.of(limits).check("message_nbytes", nbytes)
    request = staged(EncodedMessage([message]), lane=lane, limits=limits, expand=expand, out=None)
    parts = {number: fetch(item) for number, item in entries}
    del holds
    return JoinedInputs(
        [request, *parts.values()],
        lambda: composed(
            request.result(), {number: part.result() for number, part in parts.items()}
        ),
    )


def release_composed(transport: ShmReader, handle: Handle) -> None:
    """Release every slot of a composed handle that this rank never opened.

    Raises
    ------
    StaleHandleError, TransportError
        As :meth:`mmformat.ArenaReader.release`.
    """
    try:
        mapping = transport.map(handle)
    except StaleHandleError:
        transport.release(handle)  # says nothing when this rank released it before
        return
    entries, _ = unpack_index(memoryview(mapping), handle)
    for at, entry in enumerate(entries):
        try:
            transport.release(entry.handle)
        except StaleHandleError:
            for left in entries[at + 1 :]:
                with suppress(StaleHandleError):
                    transport.release(left.handle)
            raise


def _held(transport: ShmReader, handles: Sequence[Handle]) -> list[Hold]:
    """Hold all slots, or none of them.

    A rank that came back between two grants has some of the slots and not the others: it lets go
    of those that it has, for nobody will ask it to again.
    """
    holds: list[Hold] = []
    for at, handle in enumerate(handles):
        try:
            holds.append(transport.hold(handle))
        except StaleHandleError:
            for left in handles[at + 1 :]:
                with suppress(StaleHandleError):
                    holds.append(transport.hold(left))
            for hold in holds:
                hold.release()
            raise
    return holds
