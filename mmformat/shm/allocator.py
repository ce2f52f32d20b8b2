"""Give out ranges of whole pages: best fit, neighbours joined again."""

from __future__ import annotations

from bisect import bisect_left

from mmformat.shm.layout import PAGE, page_ceiling

__all__ = ["Allocator"]


class Allocator:
    """Keep the free ranges of one arena; only its producer knows them.

    Parameters
    ----------
    start, nbytes : int
        The range to give out, in whole pages.

    Notes
    -----
    **Cost**: linear in the number of free ranges, which is at most the number of live slots + 1.

    Examples
    --------
    >>> allocator = Allocator(0, 4 * 4096)
    >>> allocator.take(1), allocator.take(4097), allocator.take(8192)
    (0, 4096, None)
    >>> allocator.give(0, 1); allocator.give(4096, 4097); allocator.largest
    16384
    """

    def __init__(self, start: int, nbytes: int) -> None:
        self.capacity = nbytes // PAGE * PAGE
        self.free_nbytes = self.capacity
        self._starts = [start]
        self._sizes = [self.capacity]

    @property
    def largest(self) -> int:
        """Bytes of the largest free range."""
        return max(self._sizes, default=0)

    @property
    def ranges(self) -> list[tuple[int, int]]:
        """The free ranges as (start, nbytes), by start."""
        return list(zip(self._starts, self._sizes, strict=True))

    def take(self, nbytes: int) -> int | None:
        """Return the start of a range of that many bytes, or None when there is none."""
        wanted = page_ceiling(nbytes)
        best = -1
        for index, size in enumerate(self._sizes):
            if size >= wanted and (best < 0 or size < self._sizes[best]):
                best = index
                if size == wanted:
                    break
        if best < 0:
            return None
        start = self._starts[best]
        self.free_nbytes -= wanted
        if self._sizes[best] == wanted:
            del self._starts[best], self._sizes[best]
        else:
            self._starts[best] += wanted
            self._sizes[best] -= wanted
        return start

    def give(self, start: int, nbytes: int) -> None:
        """Take a range back and join it with its free neighbours."""
        size = page_ceiling(nbytes)
        self.free_nbytes += size
        index = bisect_left(self._starts, start)
        if index < len(self._starts) and start + size == self._starts[index]:
            size += self._sizes[index]
            del self._starts[index], self._sizes[index]
        if index > 0 and self._starts[index - 1] + self._sizes[index - 1] == start:
            self._sizes[index - 1] += size
        else:
            self._starts.insert(index, start)
            self._sizes.insert(index, size)

    def shrink(self, start: int, nbytes: int, kept_nbytes: int) -> None:
        """Take back the whole pages of a range behind its first ``kept_nbytes`` bytes."""
        kept = page_ceiling(kept_nbytes)
        if kept < page_ceiling(nbytes):
            self.give(start + kept, page_ceiling(nbytes) - kept)
