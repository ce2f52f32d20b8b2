"""Send a request's media as a handle, and open the handle on each rank."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

from mmformat.adapters.readers import Readers
from mmformat.adapters.sglang.fields import REQUEST_ITEMS, RESERVED
from mmformat.adapters.sglang.restore import from_mmformat
from mmformat.adapters.sglang.take import to_mmformat
from mmformat.arena import Arena
from mmformat.errors import EncodeError, ModelError, TransportError
from mmformat.model import MultimodalInputs
from mmformat.model.identity import hash_of_identity, identity_of
from mmformat.shm.segment import SHM_DIRECTORY

__all__ = ["HANDLE", "STAMPED", "Announcer", "open_media"]

HANDLE: Final = "mmformat.handle"
"""Key of the handle's bytes in the item that is sent in place of the media."""

STAMPED: Final = RESERVED + "stamped"
"""Indices of the items whose identity the sender computed to find equal content."""

_LOG: Final = logging.getLogger("mmformat.sglang")
_COPIED_NBYTES: Final = 64 * 1024


class Announcer:
    """Put media into an arena, and hash each item that has no hash.

    Parameters
    ----------
    arena : Arena
        Created with one rank for each tensor-parallel rank.
    timeout_s : float
        How long a request may wait for room before it takes the engine's own transport.
    renew : callable, optional
        Makes a new arena in /dev/shm if something removes the name of the current one before every
        rank has attached.

    Attributes
    ----------
    counts : collections.Counter
        Requests sent as ``handles`` and as ``fallbacks``, feature ``bytes`` of the former, ``hits``
        of content that was already in the arena, and ``arenas_lost``.
    on_count : callable, optional
        Called with a name and an increment, for metrics.

    Notes
    -----
    With ``renew``, the announcer removes the arena's name once every rank has attached: the kernel
    then frees the memory with the last process, also after SIGKILL.
    """

    def __init__(
        self, arena: Arena, *, timeout_s: float = 0.0, renew: Callable[[], Arena] | None = None
    ) -> None:
        self.arena = arena
        self.counts: Counter[str] = Counter()
        self.on_count: Callable[[str, int], None] | None = None
        self._timeout_s = timeout_s
        self._renew = renew
        self._is_shared = False
        self._hits = 0
        self._logged: set[str] = set()

    def handle_of(self, media: Any) -> bytes | None:
        """Return the handle of the media, or None if the engine must transport them itself.

        Notes
        -----
        **Copies**: each tensor byte once, into the arena; none if the content is already there.
        Items without a hash are given one, and the engine's pad values, in both cases.
        """
        try:
            self._check_name()
            identities = _stamp(media)
            inputs = to_mmformat(media)
            for number, identity in identities.items():
                inputs.items[number].identity = identity
                # Hashed just now, and nobody else holds these items: the identity stays valid.
                inputs.items[number].freeze()
            if identities:
                inputs.request_data[STAMPED] = list(identities)
            handle = bytes(self.arena.put(inputs, timeout_s=self._timeout_s))
        except (TransportError, EncodeError, ModelError) as error:
            # No room, or tensors that have a transport of their own: the request goes on.
            self._count("fallbacks", 1)
            if error.code not in self._logged:
                self._logged.add(error.code)
                _LOG.warning("media go without the arena: %s (logged once)", error)
            return None
        self._count("handles", 1)
        self._count("bytes", sum(_nbytes(item.feature) for item in inputs.items))
        self._count("hits", self.arena.stats().hits - self._hits)
        self._hits = self.arena.stats().hits
        return handle

    def _count(self, name: str, number: int) -> None:
        self.counts[name] += number
        if self.on_count is not None and number:
            self.on_count(name, number)

    def _check_name(self) -> None:
        """Replace an arena that no rank can find; remove a name that no rank needs any more."""
        if self._renew is None or self._is_shared:
            return
        if self.arena.stats().readers_attached == self.arena.transport.ranks:
            self._is_shared = True
            (SHM_DIRECTORY / self.arena.name).unlink(missing_ok=True)
        elif not os.fstat(self.arena.fileno()).st_nlink:
            lost, self.arena = self.arena, self._renew()
            lost.close()
            self._hits = 0
            self._count("arenas_lost", 1)
            _LOG.warning(
                "the name of arena %s was removed before every rank attached; continuing with %s",
                lost.name,
                self.arena.name,
            )


def open_media(ranks: Readers, handle: bytes, *, cls: type[Any]) -> Any:
    """Return the media of a handle as an object of the engine's class.

    Raises
    ------
    StaleHandleError, TransportError, DecodeError
        As :meth:`Readers.get`.

    Notes
    -----
    **Copies**: tensors of up to 64 KiB outside ``feature`` and ``precomputed_embeddings``, such as
    grids. **Lifetime**: the slot is held until its last tensor is collected. The engine drops the
    features when a request ends, but keeps the rest of its last batch until the next request.
    """
    inputs = ranks.get(handle)
    for number in inputs.request_data.pop(STAMPED, ()):
        inputs.items[number].identity = None  # the sender's, to find equal content
    _detach_small_tensors(inputs)
    return from_mmformat(inputs, cls)


def _detach_small_tensors(inputs: MultimodalInputs) -> None:
    for item in inputs.items:
        for key, value in item.model_specific_data.items():
            item.model_specific_data[key] = _copied(value)
    for key, value in inputs.request_data.items():
        inputs.request_data[key] = _copied(value)


def _copied(value: Any) -> Any:
    kind = type(value)
    if kind is dict:
        return {key: _copied(part) for key, part in value.items()}
    if kind in (list, tuple):
        return kind(_copied(part) for part in value)
    if hasattr(value, "clone") and value.numel() * value.element_size() <= _COPIED_NBYTES:
        return value.clone()
    return value


def _nbytes(value: Any) -> int:
    if isinstance(value, (list, tuple)):
        return sum(_nbytes(part) for part in value)
    return int(getattr(value, "nbytes", 0))


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
        # Each engine version derives the pad values from the hash by its own rule.
        item.set_pad_value()
    return identities
