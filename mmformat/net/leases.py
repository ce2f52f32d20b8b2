"""Which announced messages remote hosts still need, and until when."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from mmformat.errors import StaleHandleError, TransportError

if TYPE_CHECKING:
    import numpy as np

    from mmformat.net.remote_handle import Key

__all__ = ["LeaseTable", "Publication"]

MAX_PUBLICATIONS: Final = 2**17
MAX_MIRRORS: Final = 4096
"""Mirrors that one publication counts; whoever invents identities is refused, not remembered."""


@dataclass(slots=True, kw_only=True, eq=False)
class Publication:
    """Hold one announced message: its bytes, who fetches it, and who has it already."""

    key: Key
    view: np.ndarray[Any, np.dtype[np.uint8]]
    digest: bytes
    hosts: int
    """How many acknowledgements end it."""
    until_s: float
    """When it ends if nobody fetches it."""
    leases: dict[bytes, float] = field(default_factory=dict)
    """When each mirror's lease ends."""
    finished: set[bytes] = field(default_factory=set)
    """The mirrors that acknowledged it."""


class LeaseTable:
    """Hold publications until every host acknowledged them, or their leases expired.

    Parameters
    ----------
    lease_s : float
        How long a lease lasts without a sign of life.
    clock : callable
        Seconds of a monotonic clock; steps of the wall clock change nothing.

    Notes
    -----
    A publication ends when ``hosts`` mirrors acknowledged it, or when its time is over and no
    lease is left. Ending drops the view; the arena uses the bytes again when the last network
    buffer over them is gone.
    """

    def __init__(self, *, lease_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._lease_s = lease_s
        self._clock = clock
        self._mutex = threading.Lock()
        self._published: dict[Key, Publication] = {}
        self.acknowledged = self.expired_leases = self.expired = 0

    def __len__(self) -> int:
        return len(self._published)

    @property
    def leases(self) -> int:
        """How many leases are open."""
        with self._mutex:
            return sum(len(each.leases) for each in self._published.values())

    @property
    def nbytes(self) -> int:
        """Bytes of all publications."""
        with self._mutex:
            return sum(each.view.nbytes for each in self._published.values())

    def add(self, publication: Publication) -> None:
        """Publish a message, or publish it again for more hosts and longer.

        Raises
        ------
        TransportError
            With code ``net-full`` when there are too many.
        """
        self.expire()
        with self._mutex:
            there = self._published.get(publication.key)
            if there is not None:
                there.hosts += publication.hosts
                there.until_s = max(there.until_s, publication.until_s)
                return
            if len(self._published) >= MAX_PUBLICATIONS:
                raise TransportError(
                    f"at most {MAX_PUBLICATIONS:,} messages may be announced at once",
                    code="net-full",
                )
            self._published[publication.key] = publication

    def lease(self, key: Key, mirror: bytes) -> Publication:
        """Open a mirror's lease, or prolong it, and return the publication.

        Raises
        ------
        StaleHandleError
            When the message is no longer published.
        TransportError
            With code ``net-full`` when too many mirrors came.
        """
        with self._mutex:
            now_s = self._clock()
            found = self._published.get(key)
            if found is not None and self._is_over(found, now_s):
                self._end(found)
                found = None
            if found is None:
                raise StaleHandleError(
                    "the message is no longer published: every host acknowledged it, or its time "
                    "is over",
                    hint="announce with more hosts= or a longer ttl_s=",
                )
            known = mirror in found.leases or mirror in found.finished
            if not known and len(found.leases) + len(found.finished) >= MAX_MIRRORS:
                raise TransportError(
                    f"at most {MAX_MIRRORS:,} mirrors may fetch a message", code="net-full"
                )
            found.leases[mirror] = now_s + self._lease_s
            return found

    def shorten(self, key: Key, mirror: bytes, *, to_s: float) -> None:
        """Let a lease end soon, because its stream broke: long enough to come back."""
        with self._mutex:
            found = self._published.get(key)
            if found is not None and mirror in found.leases:
                found.leases[mirror] = min(found.leases[mirror], self._clock() + to_s)

    def acknowledge(self, key: Key, mirror: bytes) -> None:
        """End a mirror's lease: it has the message. A second time does nothing."""
        with self._mutex:
            found = self._published.get(key)
            if found is None:
                return
            found.leases.pop(mirror, None)
            if mirror not in found.finished and len(found.finished) < MAX_MIRRORS:
                found.finished.add(mirror)
                self.acknowledged += 1
            if len(found.finished) >= found.hosts and not found.leases:
                self._end(found)

    def withdraw(self, key: Key) -> bool:
        """End a publication now, and say whether there was one."""
        with self._mutex:
            found = self._published.get(key)
            if found is not None:
                self._end(found)
            return found is not None

    def expire(self) -> int:
        """End what is over, and return how many publications that were."""
        with self._mutex:
            now_s = self._clock()
            over = [each for each in self._published.values() if self._is_over(each, now_s)]
            for each in over:
                self._end(each)
            return len(over)

    def clear(self) -> None:
        """End every publication."""
        with self._mutex:
            self._published.clear()

    def _is_over(self, publication: Publication, now_s: float) -> bool:
        for mirror in [each for each, end in publication.leases.items() if end <= now_s]:
            del publication.leases[mirror]
            self.expired_leases += 1
        if publication.leases:
            return False
        if len(publication.finished) >= publication.hosts:
            return True
        if publication.until_s > now_s:
            return False
        self.expired += 1
        return True

    def _end(self, publication: Publication) -> None:
        del self._published[publication.key]
