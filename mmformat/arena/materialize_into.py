"""Materialize into the arena: images are processed where their message will lie."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mmformat.arena.identity import message_identity
from mmformat.arena.index import content_of
from mmformat.arena.multi_slot import ItemSlots
from mmformat.arena.reservation import Reservation
from mmformat.codec import encode
from mmformat.model.item import MultimodalDataItem, MultimodalInputs
from mmformat.shm import Handle, ShmArena

if TYPE_CHECKING:
    from mmformat.media.planning import PlannedInputs
    from mmformat.media.sources import Fetcher

__all__ = ["materialize_items", "seal_in_place"]


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


def materialize_items(
    transport: ShmArena,
    inputs: MultimodalInputs,
    processor: Any,
    *,
    fetcher: Fetcher | None,
    timeout_s: float,
) -> tuple[Handle, MultimodalInputs]:
    """Materialize each item in a slot of its own, and seal the handle that stands for all.

    Raises
    ------
    ArenaFullError, LimitError, MaterializeError, EncodeError
        As :func:`seal_in_place`; every slot is given back.
    """
    from mmformat.media.materialize import check_arguments
    from mmformat.media.planning import plan_inputs

    check_arguments(inputs, processor, fetcher)
    items = []
    request = plan_inputs(MultimodalInputs(request_data=inputs.request_data)).write()
    with ItemSlots(transport, timeout_s=timeout_s) as slots:
        for number, item in enumerate(inputs.items):
            alone = MultimodalInputs(items=[item])
            with plan_inputs(alone, processor, fetcher=fetcher, first=number) as planned:
                if planned.images:
                    items.append(_place(transport, planned, slots))
                else:
                    items.append(planned.write().items[0])
                    slots.put(items[-1])
        handle = slots.seal(request.request_data)
    return handle, MultimodalInputs(items=items, request_data=request.request_data)


def _place(transport: ShmArena, planned: PlannedInputs, slots: ItemSlots) -> MultimodalDataItem:
    def build(make: Any) -> MultimodalInputs:
        return content_of(planned.around(make).items[0])

    with Reservation.around(transport, build, timeout_s=slots.timeout_s) as slot:
        made = planned.write().items[0]
        content = content_of(made)
        key = message_identity(content, encode(content))
        handle = slots.known(key) or slot.seal(content, identity=key)
    slots.add(made, key, handle)
    return made


def _known(transport: ShmArena, identity: bytes) -> Any:
    return transport.find(identity) if identity else None
