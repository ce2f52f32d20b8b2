"""Put each item into a slot of its own, so that a request copies only what is new in it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from mmformat.arena.identity import message_identity
from mmformat.arena.index import Entry, content_of, pack_index, without_content
from mmformat.codec import encode
from mmformat.errors import EncodeError
from mmformat.model.item import MultimodalDataItem, MultimodalInputs
from mmformat.model.message import EncodedMessage
from mmformat.shm import Handle, ShmArena

__all__ = ["ItemSlots"]

SHARED_FROM_NBYTES: Final = 2**18
"""Of a smaller message a copy costs less than a slot, its record and each rank's mapping of it."""


class ItemSlots:
    """Collect the slots of one request's items, and seal the one handle that stands for them.

    A context manager: what was granted and not sealed is taken back, and stays in the cache.

    Parameters
    ----------
    transport : ShmArena
        The arena.
    timeout_s : float
        How long to wait for room, in all.
    """

    def __init__(self, transport: ShmArena, *, timeout_s: float) -> None:
        self._transport = transport
        self._deadline_s = time.monotonic() + timeout_s
        self._granted: dict[bytes, Handle] = {}
        self._entries: list[Entry] = []
        self._items: list[MultimodalDataItem] = []

    @property
    def timeout_s(self) -> float:
        """How long to wait from now on."""
        return max(0.0, self._deadline_s - time.monotonic())

    @property
    def is_worth_it(self) -> bool:
        """Whether any item has a slot of its own."""
        return bool(self._entries)

    def put(self, item: MultimodalDataItem) -> None:
        """Take one more item: as it is in the arena, as a new slot, or beside the request.

        Raises
        ------
        ArenaFullError, EncodeError
            As :meth:`mmformat.Arena.put`.
        """
        found = _shareable(item)
        if found is None:
            self._items.append(item)
            return
        content, message = found
        key = message_identity(content, message)
        handle = self.known(key)
        if handle is None:
            with self._transport.reserve(message.nbytes, timeout_s=self.timeout_s) as slot:
                message.write_into(slot.view)
                handle = slot.seal(identity=key)
        self.add(item, key, handle)

    def known(self, key: bytes) -> Handle | None:
        """Grant content that is in the arena already, or in this request."""
        return self._granted.get(key) or self._transport.find(key)

    def add(self, item: MultimodalDataItem, key: bytes, handle: Handle) -> None:
        """Take an item whose content lies in a slot that was granted."""
        self._granted[key] = handle
        self._entries.append(Entry(len(self._items), handle))
        self._items.append(without_content(item))

    def seal(self, request_data: dict[str, object]) -> Handle:
        """Write the index, and return the handle that stands for the request and all its items.

        Raises
        ------
        ArenaFullError, EncodeError
            As :meth:`mmformat.Arena.put`.
        """
        message = encode(MultimodalInputs(items=self._items, request_data=request_data))
        head = pack_index(self._entries) if self._entries else b""
        nbytes = len(head) + message.nbytes
        with self._transport.reserve(nbytes, timeout_s=self.timeout_s) as slot:
            slot.view[: len(head)] = head
            message.write_into(slot.view[len(head) :])
            handle = slot.seal()
        self._granted.clear()
        return replace(handle, composed=bool(head))

    def __enter__(self) -> ItemSlots:
        return self

    def __exit__(self, *error: object) -> None:
        self.revoke(list(self._granted.values()))

    def revoke(self, handles: Sequence[Handle]) -> None:
        """Take back what nobody was told of."""
        self._granted.clear()
        for handle in handles:
            self._transport.revoke(handle)


def _shareable(item: object) -> tuple[MultimodalInputs, EncodedMessage] | None:
    # An item that is not frozen has no identity that could be believed.
    if not isinstance(item, MultimodalDataItem) or not item.is_intact:
        return None
    content = content_of(item)
    try:
        message = encode(content)
    except EncodeError:
        return None  # refused with the request, which knows the item's number
    return (content, message) if message.nbytes >= SHARED_FROM_NBYTES else None
