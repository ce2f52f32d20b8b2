"""The producer's side of an arena: reserve, write, seal, and use again what everybody released."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
import weakref
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Final, Literal, Self

from mmformat.errors import ArenaFullError, TransportError
from mmformat.transport.shm import fork, liveness
from mmformat.transport.shm.create import create as create_segment
from mmformat.transport.shm.handle import Handle
from mmformat.transport.shm.layout import (
    CLOSED,
    DIGEST_NBYTES,
    MAX_READERS,
    MAX_SLOTS,
    ROW_WORDS,
    STATE_WORD,
    page_ceiling,
)
from mmformat.transport.shm.ledger import Extent, Ledger
from mmformat.transport.shm.metrics import ArenaMetrics
from mmformat.transport.shm.ordering import fence
from mmformat.transport.shm.segment import SHM_DIRECTORY, Segment
from mmformat.transport.shm.slot import Slot
from mmformat.transport.shm.steps import step
from mmformat.transport.shm.sweep import sweep

if TYPE_CHECKING:
    import mmap

__all__ = ["ArenaStats", "ShmArena"]

Backing = Literal["shm", "file", "memfd"]

_LOG: Final = logging.getLogger("mmformat.arena")
_REAP_INTERVAL_S: Final = 0.2
_COLLECTED_PER_RESERVE: Final = 16
_FIRST_WAIT_S: Final = 0.00005
_LONGEST_WAIT_S: Final = 0.002


@dataclass(frozen=True, slots=True, kw_only=True)
class ArenaStats:
    """Count what an arena holds and did; bytes are those of whole pages where memory is meant."""

    name: str
    nbytes: int
    free_nbytes: int
    largest_free_nbytes: int
    cached_nbytes: int
    slots: int
    slots_granted: int
    readers_attached: int
    hits: int
    misses: int
    bytes_saved: int
    evictions: int
    reclaimed: int
    waits: int


@dataclass(slots=True, kw_only=True)
class _Grant:
    extent: Extent
    generation: int
    holders: int


def _check_counts(nbytes: int, readers: int, slots: int) -> None:
    bounds = (("nbytes", nbytes, 2**62), ("readers", readers, MAX_READERS))
    for name, value, most in (*bounds, ("slots", slots, MAX_SLOTS)):
        if not 1 <= value <= most:
            raise TransportError(
                f"expected {name} of 1 to {most:,}, got {value:,}", code="arena-argument"
            )


def _directory_of(backing: str, directory: str | os.PathLike[str] | None) -> Path | None:
    if backing == "memfd" and directory is None:
        return None
    if backing == "shm":
        return SHM_DIRECTORY if directory is None else Path(directory)
    if backing == "file" and directory is not None:
        return Path(directory)
    raise TransportError(
        f"expected backing 'shm', 'memfd', or 'file' with a directory, got {backing!r}",
        code="arena-argument",
    )


def _forget(pid: int, opened: Segment) -> None:
    # Runs at exit too, and in forked children, whose parent still needs the name.
    if os.getpid() == pid:
        opened.unlink()
        opened.close()


class ShmArena:
    """Own one shared segment: the only one that writes slots, and knows what is free.

    Made by :meth:`create`. A context manager; leaving it removes the segment's name.

    Examples
    --------
    >>> with ShmArena.create(nbytes=2**20, readers=1) as arena:
    ...     with arena.reserve(5) as slot:
    ...         slot.view[:] = b"hello"
    ...         handle = slot.seal()
    >>> handle.nbytes, len(bytes(handle)) < 256
    (5, True)
    """

    def __init__(self, opened: Segment, mapping: mmap.mmap, metrics: ArenaMetrics) -> None:
        layout = opened.layout
        self.name = opened.name
        self.readers = layout.readers
        self.slots = layout.slots
        self.nbytes = layout.data_nbytes
        self._segment = opened
        self._layout = layout
        self._mapping = mapping
        self._words = memoryview(mapping).cast("Q")
        self._ledger = Ledger(layout.data_offset, layout.data_nbytes)
        self._free = list(range(layout.slots - 1, -1, -1))
        self._generations = [0] * layout.slots
        self._grants: dict[int, _Grant] = {}
        self._lost: deque[tuple[int, Extent]] = deque()
        self._gone: dict[int, int] = {}
        self._reaped_s = time.monotonic()
        self._hits = self._misses = self._bytes_saved = self._reclaimed = self._waits = 0
        self._mutex = threading.RLock()
        self._state = "open"
        self._metrics = metrics
        self._finalizer = weakref.finalize(self, _forget, os.getpid(), opened)
        fork.watch(self)

    @classmethod
    def create(
        cls,
        *,
        nbytes: int,
        readers: int,
        slots: int = 1024,
        backing: Backing = "shm",
        directory: str | os.PathLike[str] | None = None,
        name: str | None = None,
        registry: object | None = None,
    ) -> Self:
        """Create an arena: preallocated, touched, readable by this user alone.

        Parameters
        ----------
        nbytes : int
            Bytes for the slots; each takes whole pages.
        readers : int
            How many ranks read every slot, 1 to 64.
        slots : int
            How many handles may be unreleased at once.
        backing : {"shm", "file", "memfd"}
            A file of /dev/shm, a file of ``directory``, or a memfd to pass over a socket.
        directory : path, optional
            Where the file lies; for "shm" another tmpfs than /dev/shm.
        name : str, optional
            ``mmf-`` and letters, digits and hyphens; chosen from uid, pid, start time and a
            random part when omitted.
        registry : prometheus_client.CollectorRegistry, optional
            Where to register the metrics.

        Raises
        ------
        ArenaFullError
            When the directory has not the room; nothing is left behind.
        TransportError
            For arguments that cannot be, or a directory that cannot be used.

        Notes
        -----
        Segments of this user whose processes are all dead are removed first.
        **Cost**: every page is touched once, about 0.3 s a GiB.
        """
        _check_counts(nbytes, readers, slots)
        place = _directory_of(backing, directory)
        metrics = ArenaMetrics.of(registry)
        if place is not None:
            for dead in sweep(place):
                _LOG.warning("removed segment %s, whose processes are dead", dead)
        opened, mapping = create_segment(
            data_nbytes=nbytes, readers=readers, slots=slots, directory=place, name=name
        )
        return cls(opened, mapping, metrics)

    def reserve(self, nbytes: int, *, timeout_s: float = 0.0) -> Slot:
        """Return a range to write, waiting for the readers as long as the caller allows.

        Raises
        ------
        ArenaFullError
            At once when the arena could never hold it, after ``timeout_s`` when it cannot now.
        TransportError
            With code ``closed`` or ``forked``.

        Notes
        -----
        **Copies**: none. Ranks that died are found while waiting, and give back what they held.
        """
        if nbytes < 1:
            raise TransportError(f"expected at least 1 byte, got {nbytes}", code="slot-nbytes")
        if nbytes > self.nbytes:
            raise ArenaFullError(
                f"expected at most {self.nbytes:,} bytes, the whole arena, got {nbytes:,}",
                hint="create a larger arena; `mmformat shm doctor` computes the size",
            )
        deadline_s = time.monotonic() + timeout_s
        wait_s = _FIRST_WAIT_S
        waited = False
        while True:
            with self._mutex:
                self._check_open()
                slot = self._try_reserve(nbytes, hard=waited or wait_s > _FIRST_WAIT_S)
                if slot is None:
                    slot = self._try_reserve(nbytes, hard=True)
                if slot is not None:
                    return slot
                left_s = deadline_s - time.monotonic()
                if left_s <= 0:
                    raise self._full(nbytes, timeout_s)
                if not waited:
                    waited = True
                    self._waits += 1
                    self._metrics.waited()
            time.sleep(min(wait_s, left_s))
            wait_s = min(wait_s * 2, _LONGEST_WAIT_S)

    def find(self, identity: bytes) -> Handle | None:
        """Grant content that is already there to every reader once more, or return None.

        Notes
        -----
        **Copies**: none. The new handle has a record of its own, so readers release each grant
        for itself, in any order.
        """
        with self._mutex:
            self._check_open()
            self._tidy(_COLLECTED_PER_RESERVE)
            extent = self._ledger.find(identity) if identity else None
            if extent is not None and not self._free:
                self._collect(None)
            if extent is None or not self._free:
                self._misses += 1
                self._metrics.missed()
                return None
            self._hits += 1
            self._bytes_saved += extent.nbytes
            self._metrics.hit(extent.nbytes)
            return self._grant(self._free.pop(), extent)

    def reap(self) -> int:
        """Take back what dead readers held and what all living ones released; count the former.

        Raises
        ------
        TransportError
            With code ``closed`` or ``forked``.
        """
        with self._mutex:
            self._check_open()
            reclaimed = self._reap()
            self._collect(None)
            return reclaimed

    def stats(self) -> ArenaStats:
        """Return the counts of this moment."""
        with self._mutex:
            self._check_open()
            self._collect(None)
            ledger = self._ledger
            return ArenaStats(
                name=self.name,
                nbytes=self.nbytes,
                free_nbytes=ledger.allocator.free_nbytes,
                largest_free_nbytes=ledger.allocator.largest,
                cached_nbytes=ledger.cached_nbytes,
                slots=self.slots,
                slots_granted=len(self._grants),
                readers_attached=sum(self._present(reader) for reader in range(self.readers)),
                hits=self._hits,
                misses=self._misses,
                bytes_saved=self._bytes_saved,
                evictions=ledger.evictions,
                reclaimed=self._reclaimed,
                waits=self._waits,
            )

    def fileno(self) -> int:
        """Return the segment's descriptor, which a memfd's readers are sent over a Unix socket."""
        self._check_open()
        return self._segment.fd

    def close(self) -> None:
        """Remove the segment's name, once; readers keep what they have mapped."""
        with self._mutex:
            if self._state != "open":
                return
            self._state = "closed"
            self._words[STATE_WORD] = CLOSED
            step("close.closed")
            self._segment.unlink()
            step("close.unlinked")
            self._finalizer.detach()
            self._segment.close()
            self._words.release()
            with contextlib.suppress(BufferError):  # it goes with the last view of a slot
                self._mapping.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return (
            f"ShmArena({self.name}, {self.nbytes:,} bytes, {self.readers} readers, "
            f"{len(self._grants)} of {self.slots} slots granted, {self._state})"
        )

    def _check_open(self) -> None:
        if self._state != "open":
            forked = self._state == "forked"
            raise TransportError(
                f"expected an open arena, got one that is {self._state}",
                hint="create the arena after the fork, or spawn" if forked else None,
                code=self._state,
            )

    def _full(self, nbytes: int, timeout_s: float) -> ArenaFullError:
        free = self._ledger.allocator
        return ArenaFullError(
            f"expected room for {nbytes:,} bytes within {timeout_s:g} s, got {free.free_nbytes:,} "
            f"free of {self.nbytes:,} ({free.largest:,} in one piece) and {len(self._free)} free "
            f"of {self.slots} slots",
            hint="wait longer, let the ranks release sooner, or create a larger arena",
        )

    def _try_reserve(self, nbytes: int, *, hard: bool) -> Slot | None:
        if hard:
            self._reap()
            self._collect(None)
        else:
            self._tidy(_COLLECTED_PER_RESERVE)
        if not self._free:
            return None
        extent = self._ledger.take(nbytes)
        if extent is None:
            return None
        step("reserve.allocated")
        return Slot(self, self._free.pop(), extent=extent, mapping=self._mapping)

    def _tidy(self, most: int) -> None:
        if time.monotonic() - self._reaped_s > _REAP_INTERVAL_S:
            self._reap()
        self._collect(most)

    def _seal(self, record: int, extent: Extent, nbytes: int, identity: bytes) -> Handle:
        if len(identity) > DIGEST_NBYTES:
            raise TransportError(
                f"expected at most {DIGEST_NBYTES} bytes, got {len(identity)}", code="identity"
            )
        with self._mutex:
            self._check_open()
            if page_ceiling(nbytes) < page_ceiling(extent.nbytes):
                self._ledger.shrink(extent, nbytes)
            extent.nbytes = nbytes
            self._ledger.learn(extent, identity)
            return self._grant(record, extent)

    def _grant(self, record: int, extent: Extent) -> Handle:
        generation = self._generations[record] = self._generations[record] + 1
        holders = sum(1 << reader for reader in range(self.readers) if self._waited_for(reader))
        words, at = self._words, self._layout.record(record)
        digest = extent.identity.ljust(DIGEST_NBYTES, b"\0")
        words[at] = 0
        words[at + 1] = extent.offset
        words[at + 2] = extent.nbytes
        words[at + 3] = holders
        for index in range(4):
            words[at + 4 + index] = int.from_bytes(digest[8 * index : 8 * index + 8], "little")
        step("seal.record")
        fence()  # the payload and the record before the generation that makes them valid
        words[at] = generation
        step("seal.sealed")
        self._grants[record] = _Grant(extent=extent, generation=generation, holders=holders)
        self._ledger.grant(extent)
        return Handle(
            name=self.name,
            segment_id=self._layout.segment_id,
            slot=record,
            generation=generation,
            offset=extent.offset,
            nbytes=extent.nbytes,
            holders=holders,
        )

    def _abandon(self, record: int, extent: Extent) -> None:
        with self._mutex:
            if self._state == "open":
                self._free.append(record)
                self._ledger.drop(extent)

    def _collect(self, most: int | None) -> None:
        while self._lost:
            self._abandon(*self._lost.popleft())
        words, layout = self._words, self._layout
        for record in list(self._grants)[:most]:
            grant = self._grants[record]
            holders, reader = grant.holders, 0
            while holders:
                row = layout.row(reader) + ROW_WORDS + record
                if holders & 1 and words[row] < grant.generation:
                    break
                holders >>= 1
                reader += 1
            else:
                del self._grants[record]
                self._free.append(record)
                self._ledger.ungrant(grant.extent)
                step("reuse.freed")

    def _present(self, reader: int) -> bool:
        word = self._words[self._layout.row(reader)]
        return bool(word & 1) and self._gone.get(reader) != word

    def _waited_for(self, reader: int) -> bool:
        # Read afresh for every grant: docs/arena.md shows the race that a remembered word opens.
        return self._words[self._layout.row(reader)] == 0 or self._present(reader)

    def _reap(self) -> int:
        self._reaped_s = time.monotonic()
        reclaimed = 0
        for reader in range(self.readers):
            # The word first, the lock second: a rank that restarts between the two has the lock.
            word = self._words[self._layout.row(reader)]
            if word == 0 or self._gone.get(reader) == word:
                continue
            died = bool(word & 1)
            if died and liveness.is_locked(self._segment.lock_fd, liveness.reader_byte(reader)):
                continue
            self._gone[reader] = word
            reclaimed += self._take_from(reader, died=died)
        self._reclaimed += reclaimed
        if reclaimed:
            self._metrics.reclaimed(reclaimed)
        return reclaimed

    def _take_from(self, reader: int, *, died: bool) -> int:
        taken = 0
        row = self._layout.row(reader) + ROW_WORDS
        for record, grant in self._grants.items():
            if not grant.holders >> reader & 1:
                continue
            grant.holders &= ~(1 << reader)
            if died and self._words[row + record] < grant.generation:
                taken += 1
                _LOG.warning(
                    "arena %s: reclaimed slot %d generation %d (%d bytes): reader %d died",
                    self.name,
                    record,
                    grant.generation,
                    grant.extent.nbytes,
                    reader,
                )
        return taken

    def before_fork(self) -> None:
        """Keep other threads out of the books while they are copied."""
        self._mutex.acquire()

    def after_fork(self) -> None:
        """Let the other threads go on."""
        self._mutex.release()

    def after_fork_in_child(self) -> None:
        """Give up the lock and the name: they are the parent's."""
        self._mutex = threading.RLock()
        if self._state == "open":
            self._state = "forked"
            self._finalizer.detach()
            self._segment.close()
