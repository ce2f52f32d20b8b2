"""The sending side: put a request's media into the arena, and let a handle stand for them."""

from __future__ import annotations

import logging
from typing import Any, Final

from mmformat.adapters.sglang.fields import REQUEST_ITEMS, RESERVED
from mmformat.adapters.sglang.take import to_mmformat
from mmformat.arena import Arena
from mmformat.errors import EncodeError, ModelError, TransportError
from mmformat.model.identity import hash_of_identity, identity_of

__all__ = ["HANDLE", "STAMPED", "Announcer"]

HANDLE: Final = "mmformat.handle"
"""Under this name the handle's bytes stand where the media were."""

STAMPED: Final = RESERVED + "stamped"
"""Numbers of the items whose identity is ours: it finds content that is already there."""

_LOG: Final = logging.getLogger("mmformat.sglang")


class Announcer:
    """Put media into an arena, each item hashed once if nobody hashed it.

    Parameters
    ----------
    arena : Arena
        With one reader for each rank.
    timeout_s : float
        How long a request may wait for room before it goes the engine's own way.
    """

    def __init__(self, arena: Arena, *, timeout_s: float = 0.0) -> None:
        self._arena = arena
        self._timeout_s = timeout_s
        self._said: set[str] = set()

    def handle_of(self, media: Any) -> bytes | None:
        """Return the handle of the media, or None when they must go the engine's own way.

        Notes
        -----
        **Copies**: each tensor byte once, into the arena; none when the content is there. Items
        without a hash are given one, and the engine's pad values with it, on either way.
        """
        try:
            identities = _stamp(media)
            inputs = to_mmformat(media)
            for number, identity in identities.items():
                inputs.items[number].identity = identity
                # Hashed just now, and these items are nobody else's: the identity holds.
                inputs.items[number].freeze()
            if identities:
                inputs.request_data[STAMPED] = list(identities)
            return bytes(self._arena.put(inputs, timeout_s=self._timeout_s))
        except (TransportError, EncodeError, ModelError) as error:
            # Not an error for the request: no room, or tensors that have a transport of their own.
            if error.code not in self._said:
                self._said.add(error.code)
                _LOG.warning("media go without the arena: %s (said once)", error)
            return None


def _stamp(media: Any) -> dict[int, str]:
    """Give hash and pad values to the engine's items that have none; return their identities."""
    items = media[REQUEST_ITEMS] if isinstance(media, dict) else media.mm_items
    identities: dict[int, str] = {}
    for number, item in enumerate(items):
        if item.hash is not None and item.pad_value is not None:
            continue
        if item.hash is None:
            identity = identity_of(to_mmformat(item).items[0])
            item.hash = hash_of_identity(identity)
            if getattr(item, "identity", None) is None:
                identities[number] = identity
        # The engine's own rule makes the pad values of the hash, in every version.
        item.set_pad_value()
    return identities
