"""Materialize into the arena: images are processed where their message will lie."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mmformat.codec import encode
from mmformat.model.item import MultimodalInputs
from mmformat.share.identity import message_identity
from mmformat.share.reservation import Reservation
from mmformat.transport.shm import Handle, ShmArena

if TYPE_CHECKING:
    from mmformat.media.planning import PlannedInputs

__all__ = ["seal_in_place"]


def seal_in_place(
    transport: ShmArena, planned: PlannedInputs, *, timeout_s: float
) -> tuple[Handle, MultimodalInputs]:
    """Reserve a slot for planned inputs, process their images in it, and seal it.

    Raises
    ------
    ArenaFullError
        When there is no room in time; nothing was decoded then.
    LimitError, MaterializeError, EncodeError
        As :func:`mmformat.materialize` and :func:`mmformat.encode`; the slot is given back.
    """
    with Reservation.around(transport, planned.around, timeout_s=timeout_s) as slot:
        made = planned.write()
        # Of the message as `put` would write it: a head that was reserved longer has padding.
        identity = message_identity(made, encode(made))
        return _known(transport, identity) or slot.seal(made, identity=identity), made


def _known(transport: ShmArena, identity: bytes) -> Any:
    return transport.find(identity) if identity else None
