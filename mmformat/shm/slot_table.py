"""Who holds which sealed slot: grant, collect what everybody released, reap the dead."""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass
from itertools import islice
from typing import Final

from mmformat.errors import StaleHandleError
from mmformat.shm import liveness
from mmformat.shm.arena_full import Holding
from mmformat.shm.extents import Extent, Ledger
from mmformat.shm.failpoints import step
from mmformat.shm.fence import fence
from mmformat.shm.handle import Handle
from mmformat.shm.layout import DIGEST_NBYTES, RECORD_WORDS, ROW_WORDS, Layout

__all__ = ["Grants"]

_LOG: Final = logging.getLogger("mmformat.arena")


@dataclass(slots=True, kw_only=True)
class _Grant:
    extent: Extent
    generation: int
    holders: int


class Grants:
    """Write the slot records, and read what the readers write; the producer's lock is held.

    Parameters
    ----------
    name : str
        The segment's name.
    layout : Layout
        Where the words lie.
    words : memoryview
        The segment as 64-bit words.
    lock_fd : int
        The producer's own open file description, through which other locks are seen.
    ledger : Ledger
        Where the extents go back to.
    """

    def __init__(
        self, name: str, layout: Layout, *, words: memoryview, lock_fd: int, ledger: Ledger
    ) -> None:
        self.free = list(range(layout.slots - 1, -1, -1))
        self.reclaimed = 0
        self._name = name
        self._segment_id = layout.segment_id
        self._words = words
        self._lock_fd = lock_fd
        self._ledger = ledger
        # Where each reader's row starts among the words; every put looks at all of them.
        self._rows = [layout.row(rank) for rank in range(layout.ranks)]
        self._records_word = layout.records_word
        self._generations = [0] * layout.slots
        self._granted: dict[int, _Grant] = {}
        self._gone: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._granted)

    @property
    def present(self) -> int:
        """How many readers are attached and not known to be dead."""
        return sum(self._is_present(rank) for rank in range(len(self._rows)))

    def holdings(self) -> tuple[Holding, ...]:
        """Return what each rank has not released, for those that hold anything."""
        found = []
        for rank, row in enumerate(self._rows):
            held = [
                grant.extent.content_nbytes
                for record, grant in self._granted.items()
                if grant.holders >> rank & 1
                and self._words[row + ROW_WORDS + record] < grant.generation
            ]
            if held:
                ever = self._words[row] != 0
                found.append(
                    Holding(rank=rank, slots=len(held), nbytes=sum(held), ever_attached=ever)
                )
        return tuple(found)

    def grant(self, record: int, extent: Extent) -> Handle:
        """Make a sealed slot valid for every reader that is there or still to come."""
        generation = self._generations[record] = self._generations[record] + 1
        holders = 0
        for rank in range(len(self._rows)):
            if self._is_waited_for(rank):
                holders |= 1 << rank
        words, at = self._words, self._records_word + record * RECORD_WORDS
        words[at] = 0
        words[at + 1] = extent.offset
        words[at + 2] = extent.content_nbytes
        words[at + 3] = holders
        digest = memoryview(extent.identity.ljust(DIGEST_NBYTES, b"\0")).cast("Q")
        words[at + 4 : at + 8] = digest
        step("seal.record")
        fence()  # the payload and the record before the generation that makes them valid
        words[at] = generation
        step("seal.sealed")
        self._granted[record] = _Grant(extent=extent, generation=generation, holders=holders)
        self._ledger.grant(extent)
        return Handle(
            name=self._name,
            segment_id=self._segment_id,
            slot=record,
            generation=generation,
            offset=extent.offset,
            nbytes=extent.content_nbytes,
            holders=holders,
        )

    def revoke(self, record: int, generation: int) -> None:
        """Take back a slot that no reader was told of; whoever is told later finds it stale."""
        grant = self._granted.get(record)
        if grant is not None and grant.generation == generation:
            self._words[self._records_word + record * RECORD_WORDS] = 0
            del self._granted[record]
            self.free.append(record)
            self._ledger.ungrant(grant.extent)

    def extent_of(self, handle: Handle) -> Extent:
        """Return where the content of a granted slot lies.

        Raises
        ------
        StaleHandleError
            When the slot is not granted, or has other content by now.
        """
        grant = self._granted.get(handle.slot)
        same = handle.segment_id == self._segment_id
        if grant is None or grant.generation != handle.generation or not same:
            raise StaleHandleError(
                f"slot {handle.slot} of {self._name} no longer holds generation {handle.generation}"
            )
        return grant.extent

    def withdraw(self, handle: Handle, ranks: Collection[int]) -> None:
        """Forget ranks that were never told of a slot; nothing waits for them any more."""
        grant = self._granted.get(handle.slot)
        if grant is not None and grant.generation == handle.generation:
            for rank in ranks:
                grant.holders &= ~(1 << rank)

    def collect(self, most: int | None = None) -> None:
        """Take back the slots that all their holders released, looking at the oldest first."""
        words, rows = self._words, self._rows
        for record in list(islice(self._granted, most)):
            grant = self._granted[record]
            holders, rank = grant.holders, 0
            while holders:
                if holders & 1 and words[rows[rank] + ROW_WORDS + record] < grant.generation:
                    break
                holders >>= 1
                rank += 1
            else:
                # The loads above decide the stores to come, which no processor does beforehand.
                del self._granted[record]
                self.free.append(record)
                self._ledger.ungrant(grant.extent)
                step("reuse.freed")

    def reap(self) -> int:
        """Find the readers that are gone, and return how many slots the dead ones still held."""
        reclaimed = 0
        for rank, row in enumerate(self._rows):
            # The word first, the lock second: a rank that restarts in between has the lock.
            word = self._words[row]
            if word == 0 or self._gone.get(rank) == word:
                continue
            # Also of one that detached: a new process may hold the lock by now, and have given
            # back what was granted before it, yet be a holder of what is granted meanwhile.
            if liveness.is_locked(self._lock_fd, liveness.rank_byte(rank)):
                continue
            died = bool(word & 1)
            self._gone[rank] = word
            reclaimed += self._take_from(rank, died=died)
        self.reclaimed += reclaimed
        return reclaimed

    def _is_present(self, rank: int) -> bool:
        word = self._words[self._rows[rank]]
        return bool(word & 1) and self._gone.get(rank) != word

    def _is_waited_for(self, rank: int) -> bool:
        # Read afresh for every grant: docs/arena.md shows the race that a remembered word opens.
        return self._words[self._rows[rank]] == 0 or self._is_present(rank)

    def _take_from(self, rank: int, *, died: bool) -> int:
        taken = 0
        row = self._rows[rank] + ROW_WORDS
        for record, grant in self._granted.items():
            if not grant.holders >> rank & 1:
                continue
            grant.holders &= ~(1 << rank)
            if died and self._words[row + record] < grant.generation:
                taken += 1
                _LOG.warning(
                    "arena %s: reclaimed slot %d generation %d (%d bytes): rank %d died",
                    self._name,
                    record,
                    grant.generation,
                    grant.extent.content_nbytes,
                    rank,
                )
        return taken
