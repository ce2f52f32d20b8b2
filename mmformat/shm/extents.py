"""The producer's own books: which bytes are reserved, granted, cached or free."""

from __future__ import annotations

import weakref
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from mmformat.shm.allocator import Allocator
from mmformat.shm.layout import page_ceiling

__all__ = ["Extent", "Ledger"]


@dataclass(slots=True, kw_only=True, eq=False)
class Extent:
    """Hold a range of bytes, and count what keeps it from being used again."""

    offset: int
    nbytes: int
    """Bytes of the range, which counts in whole pages."""
    content_nbytes: int
    """Bytes that were written."""
    identity: bytes = b""
    grants: int = 0
    """Sealed records that some living reader has not released yet."""
    writer: weakref.ref[Any] | None = None
    """The object behind every view that the producer was given; dead when the last view is."""

    @property
    def written_to(self) -> bool:
        """Whether the producer still has a view of these bytes."""
        return self.writer is not None and self.writer() is not None


class Ledger:
    """Decide which bytes may be used again, and keep the others as a cache while there is room.

    Parameters
    ----------
    start, nbytes : int
        The data range of the segment.
    """

    def __init__(self, start: int, nbytes: int) -> None:
        self.allocator = Allocator(start, nbytes)
        self.known: dict[bytes, Extent] = {}
        self.cached: OrderedDict[int, Extent] = OrderedDict()
        self.lingering: list[Extent] = []
        self.evictions = 0

    def take(self, nbytes: int) -> Extent | None:
        """Return an extent, evicting cached ones from the least recently used, or None."""
        self.settle()
        offset = self.allocator.take(nbytes)
        # Asked only where something would have to go: a put that finds room pays nothing.
        if offset is None and not self._can_fit(nbytes):
            return None
        while offset is None:
            if not self.cached:
                return None
            _, oldest = self.cached.popitem(last=False)
            self.evictions += 1
            self._forget(oldest)
            self._give(oldest)
            offset = self.allocator.take(nbytes)
        return Extent(offset=offset, nbytes=nbytes, content_nbytes=nbytes)

    def _can_fit(self, nbytes: int) -> bool:
        """Whether evicting everything cached would leave one free range that is large enough."""
        ranges = self.allocator.ranges
        ranges += [(each.offset, page_ceiling(each.nbytes)) for each in self.cached.values()]
        wanted, end, joined = page_ceiling(nbytes), -1, 0
        for start, size in sorted(ranges):
            joined = joined + size if start == end else size
            end = start + size
            if joined >= wanted:
                return True
        return False

    def shrink(self, extent: Extent, nbytes: int) -> None:
        """Set how much was written, and give back the whole pages behind it."""
        extent.content_nbytes = nbytes
        if not extent.written_to:
            self.allocator.shrink(extent.offset, extent.nbytes, nbytes)
            extent.nbytes = nbytes

    def learn(self, extent: Extent, identity: bytes) -> None:
        """Remember what an extent contains, unless the same content is there already."""
        if identity and identity not in self.known:
            extent.identity = identity
            self.known[identity] = extent

    def find(self, identity: bytes) -> Extent | None:
        """Return the extent with this content, or None."""
        return self.known.get(identity)

    def grant(self, extent: Extent) -> None:
        """Count one more record of an extent."""
        extent.grants += 1
        self.cached.pop(extent.offset, None)

    def ungrant(self, extent: Extent) -> None:
        """Count one record less; an extent without any is cached, or free."""
        extent.grants -= 1
        if extent.grants == 0:
            if extent.identity:
                self.cached[extent.offset] = extent
            else:
                self._give(extent)

    def drop(self, extent: Extent) -> None:
        """Free an extent that was never granted."""
        self._give(extent)

    @property
    def cached_nbytes(self) -> int:
        """Bytes that nobody holds, kept because they may be asked for again."""
        return sum(extent.nbytes for extent in self.cached.values())

    def _forget(self, extent: Extent) -> None:
        if extent.identity:
            del self.known[extent.identity]
            extent.identity = b""

    def _give(self, extent: Extent) -> None:
        if extent.written_to:
            # A tensor of the producer still looks at these bytes: they are nobody else's yet.
            self.lingering.append(extent)
        else:
            self.allocator.give(extent.offset, extent.nbytes)

    def settle(self) -> None:
        """Free what the producer's views were the last to hold."""
        if self.lingering:
            waiting, self.lingering = self.lingering, []
            for extent in waiting:
                self._give(extent)
