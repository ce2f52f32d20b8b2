"""Put a request into the arena: as one slot, or each item in a slot of its own."""

from __future__ import annotations

from mmformat.arena.identity import message_identity
from mmformat.arena.multi_slot import ItemSlots
from mmformat.codec import encode
from mmformat.model.compression import Compression
from mmformat.model.item import MultimodalInputs
from mmformat.model.message import EncodedMessage
from mmformat.shm import Handle, ShmArena

__all__ = ["put_items", "put_request"]


def put_request(
    transport: ShmArena,
    inputs: MultimodalInputs | EncodedMessage,
    *,
    timeout_s: float,
    compression: Compression | str | None,
) -> Handle:
    """Put inputs, or a message, as one slot; see :meth:`mmformat.Arena.put`."""
    message, identity = inputs, b""
    if not isinstance(message, EncodedMessage):
        message = encode(message, compression=compression)
    if isinstance(inputs, MultimodalInputs) and compression is None:
        identity = message_identity(inputs, message)
        found = transport.find(identity) if identity else None
        if found is not None:
            return found
    with transport.reserve(message.nbytes, timeout_s=timeout_s) as slot:
        message.write_into(slot.view)
        return slot.seal(identity=identity)


def put_items(
    transport: ShmArena,
    inputs: MultimodalInputs | EncodedMessage,
    *,
    timeout_s: float,
    compression: Compression | str | None,
) -> Handle:
    """Put each item that can be found again as a slot, and return the one handle for all."""
    if isinstance(inputs, MultimodalInputs) and compression is None:
        with ItemSlots(transport, timeout_s=timeout_s) as slots:
            for item in inputs.items:
                slots.put(item)
            if slots.is_worth_it:
                return slots.seal(inputs.request_data)
    return put_request(transport, inputs, timeout_s=timeout_s, compression=compression)
