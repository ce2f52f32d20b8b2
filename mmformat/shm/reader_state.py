"""A rank's own books: what it maps, and the release words that only it writes."""

from __future__ import annotations

import os
import threading
import time
from collections import deque

from mmformat.errors import StaleHandleError, TransportError
from mmformat.shm import liveness
from mmformat.shm.failpoints import step
from mmformat.shm.fence import fence
from mmformat.shm.handle import Handle
from mmformat.shm.layout import PAGE, RECORD_WORDS, ROW_WORDS
from mmformat.shm.segment import Segment

__all__ = ["Claims"]

_Key = tuple[int, int]


class Claims:
    """Count the mappings of each slot, and release a slot when the last of them is gone.

    Parameters
    ----------
    opened : Segment
        The segment, with the rank's lock held.
    rank : int
        The rank.

    Notes
    -----
    Finalizers run anywhere, also inside the lock of this object. They only leave a note;
    whoever holds the lock reads the notes after giving it back, so none is lost.
    """

    def __init__(self, opened: Segment, rank: int) -> None:
        layout = opened.layout
        self.state = "open"
        self._name = opened.name
        self._reader = rank
        self._segment = opened
        # Numbers that every get needs, worked out once.
        self._slots = layout.slots
        self._records_word = layout.records_word
        self._data = range(layout.data_offset, layout.segment_nbytes, PAGE)
        self._end = layout.segment_nbytes
        self._control = opened.map_shared(offset=0, nbytes=layout.rows_offset, writable=False)
        self._words = memoryview(self._control).cast("Q")
        self._row_mapping = opened.map_shared(
            offset=layout.row(rank) * 8, nbytes=layout.row_nbytes, writable=True
        )
        self._row = memoryview(self._row_mapping).cast("Q")
        self._live: dict[_Key, int] = {}
        self._given_back: list[int] = []
        self._seen: set[_Key] = set()
        self._unmapped: deque[tuple[_Key, bool]] = deque()
        self._mutex = threading.Lock()

    def __len__(self) -> int:
        return len(self._live)

    def announce(self) -> None:
        """Give back what an earlier process of this rank held, then say that this one is there."""
        words, row = self._words, self._row
        incarnation = row[0] >> 1
        if incarnation:
            for slot in range(self._slots):
                generation = words[self._record(slot)]
                row[ROW_WORDS + slot] = max(row[ROW_WORDS + slot], generation)
            self._given_back = list(row[ROW_WORDS : ROW_WORDS + self._slots])
            step("attach.given-back")
        row[1] = os.getpid()
        row[2] = liveness.start_time(os.getpid()) or 0
        row[3] = time.time_ns()
        # Wrapped: whatever an earlier process left there, the word has 64 bits.
        row[0] = ((incarnation + 1) << 1 | 1) % 2**64
        step("attach.attached")

    def claim(self, handle: Handle) -> None:
        """Count a mapping that is about to be made.

        Raises
        ------
        StaleHandleError, TransportError
            As :meth:`ShmReader.map`.
        """
        key = (handle.slot, handle.generation)
        try:
            with self._mutex:
                self._check(handle)
                self._live[key] = self._live.get(key, 0) + 1
        finally:
            self.settle()

    def is_current(self, handle: Handle) -> bool:
        """Whether the slot still has the handle's content."""
        return bool(self._words[self._record(handle.slot)] == handle.generation)

    def unclaim(self, key: _Key) -> None:
        """Note that a mapping is gone; the last one of a slot releases it."""
        self._unmapped.append((key, True))
        self.settle()

    def withdraw(self, key: _Key) -> None:
        """Note that a mapping could not be made: the slot stays this rank's to try again."""
        self._unmapped.append((key, False))
        self.settle()

    def release(self, handle: Handle) -> None:
        """Release a slot that is not mapped; what this rank released itself already stays so.

        Raises
        ------
        StaleHandleError, TransportError
            As :meth:`ShmReader.release`.
        """
        try:
            with self._mutex:
                if self._is_released_here(handle):
                    return
                self._check(handle)
                count = self._live.get((handle.slot, handle.generation), 0)
                if count:
                    raise TransportError(
                        f"expected no view of slot {handle.slot}, got {count} still alive",
                        hint="drop the tensors (del): the last one releases the slot by itself",
                        code="views-alive",
                    )
                self._row[ROW_WORDS + handle.slot] = handle.generation
                step("release.released")
        finally:
            self.settle()

    def close(self) -> None:
        """Detach as soon as nothing is mapped."""
        with self._mutex:
            if self.state == "open":
                self.state = "closing"
        self.settle()

    def forget(self) -> None:
        """Detach as soon as nothing is mapped, without waiting for the lock: a finalizer calls."""
        if self.state == "open":
            self.state = "closing"
        self.settle()

    def check_open(self) -> None:
        """Raise TransportError with code ``closed`` or ``forked`` unless the rank is attached."""
        if self.state == "open":
            return
        forked = self.state == "forked"
        raise TransportError(
            f"expected an attached reader, got one that is {self.state}",
            hint="attach in the process that reads" if forked else None,
            code="forked" if forked else "closed",
        )

    def settle(self) -> None:
        """Read the notes of finalizers that found the lock taken."""
        while self._is_unsettled() and self._mutex.acquire(blocking=False):
            try:
                while self._unmapped:
                    self._count_down(*self._unmapped.popleft())
                if self.state == "closing" and not self._live:
                    self._detach()
            finally:
                self._mutex.release()

    def pause(self) -> None:
        """Hold the books still, for a fork."""
        self._mutex.acquire()

    def resume(self) -> None:
        """Go on after a fork."""
        self._mutex.release()
        self.settle()

    def disown(self) -> None:
        """Give up the rank in a forked child: it is the parent's."""
        self._mutex = threading.Lock()
        if self.state != "closed":
            self.state = "forked"
            self._segment.close()

    def _record(self, slot: int) -> int:
        return self._records_word + slot * RECORD_WORDS

    def _is_unsettled(self) -> bool:
        return bool(self._unmapped) or (self.state == "closing" and not self._live)

    def _check(self, handle: Handle) -> None:
        self.check_open()
        words = self._words
        if handle.segment_id != self._segment.layout.segment_id:
            raise StaleHandleError(f"expected a handle of {self._name}, got one of {handle.name}")
        inside = handle.offset in self._data and 0 < handle.nbytes <= self._end - handle.offset
        if not inside or not 0 <= handle.slot < self._slots:
            raise TransportError("expected a handle within its segment", code="handle")
        if not handle.holders >> self._reader & 1:
            raise StaleHandleError(
                f"expected a handle for rank {self._reader}, got one from before it attached"
            )
        slot, generation = f"slot {handle.slot}", handle.generation
        # Only this rank writes this word, so until it does the producer cannot use the slot again.
        if self._row[ROW_WORDS + handle.slot] >= generation:
            raise StaleHandleError(
                f"expected {slot} generation {generation} held, got it released by this rank"
            )
        at = self._record(handle.slot)
        if words[at] != generation:
            raise StaleHandleError(f"expected {slot} at generation {generation}, got {words[at]}")
        if (words[at + 1], words[at + 2]) != (handle.offset, handle.nbytes):
            raise TransportError("expected a handle that matches its slot", code="handle")

    def _count_down(self, key: _Key, seen: bool) -> None:
        left = self._live.pop(key) - 1
        if left:
            self._live[key] = left
            if seen:
                self._seen.add(key)  # a mapping that fails later must not forget this one's end
            return
        if not seen and key not in self._seen:
            return
        self._seen.discard(key)
        if self.state != "forked":
            # The unmap came first: on aarch64 its TLB invalidation ends in DSB ISH, which waits for
            # every load through the old mapping, on every core. A hold has no unmap, so: a fence.
            fence()
            step("release.unmapped")
            slot, generation = key
            row = self._row
            row[ROW_WORDS + slot] = max(row[ROW_WORDS + slot], generation)
            step("release.released")

    def _is_released_here(self, handle: Handle) -> bool:
        """Whether this process, not one before it under its number, released the handle's slot."""
        self.check_open()
        slot = handle.slot
        if handle.segment_id != self._segment.layout.segment_id or not 0 <= slot < self._slots:
            return False
        before = self._given_back[slot] if self._given_back else 0
        granted = bool(handle.holders >> self._reader & 1)
        return granted and before < handle.generation <= self._row[ROW_WORDS + slot]

    def _detach(self) -> None:
        self.state = "closed"
        self._row[0] &= ~1
        step("detach.detached")
        self._row.release()
        self._words.release()
        self._row_mapping.close()
        self._control.close()
        self._segment.close()
