"""The producer's side of an arena: reserve, write, seal, and use again what everybody released."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Collection
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self

import numpy as np

from mmformat.errors import ArenaFullError, TransportError
from mmformat.shm import fork
from mmformat.shm.arena_full import Shortage
from mmformat.shm.backing import Backing, check_counts, directory_of
from mmformat.shm.create import create as create_segment
from mmformat.shm.extents import Extent, Ledger
from mmformat.shm.failpoints import step
from mmformat.shm.handle import Handle
from mmformat.shm.layout import CLOSED, STATE_WORD
from mmformat.shm.metrics import Metrics, metrics_of
from mmformat.shm.segment import Segment
from mmformat.shm.slot import Slot
from mmformat.shm.slot_table import Grants
from mmformat.shm.stats import ArenaStats
from mmformat.shm.sweep import sweep

if TYPE_CHECKING:
    import mmap

__all__ = ["Lent", "ShmArena"]

_LOG: Final = logging.getLogger("mmformat.arena")
_REAP_INTERVAL_S: Final = 0.2
_COLLECTED_PER_CALL: Final = 16
_FIRST_WAIT_S: Final = 0.00005
_LONGEST_WAIT_S: Final = 0.002


def _forget(pid: int, opened: Segment) -> None:
    # Runs at exit too, and in forked children, whose parent still needs the name.
    if os.getpid() == pid:
        opened.unlink()
        opened.close()


class Lent(NamedTuple):
    """Hold a slot's bytes, as an array of uint8, and the identity that they are found again by."""

    view: np.ndarray[Any, np.dtype[np.uint8]]
    identity: bytes


class ShmArena:
    """Own one shared segment: the only one that writes slots, and knows what is free.

    Made by :meth:`create`. A context manager; leaving it removes the segment's name.

    Examples
    --------
    >>> with ShmArena.create(nbytes=2**20, ranks=1) as arena:
    ...     with arena.reserve(5) as slot:
    ...         slot.view[:] = b"hello"
    ...         handle = slot.seal()
    >>> handle.nbytes, len(bytes(handle)) < 256
    (5, True)
    """

    def __init__(self, opened: Segment, mapping: mmap.mmap, metrics: Metrics | None) -> None:
        layout = opened.layout
        self.name = opened.name
        self.segment_id = layout.segment_id
        self.ranks = layout.ranks
        self.slots = layout.slots
        self.nbytes = layout.data_nbytes
        self._segment = opened
        self._mapping = mapping
        self._words = memoryview(mapping).cast("Q")
        self._ledger = Ledger(layout.data_offset, layout.data_nbytes)
        self._grants = Grants(
            opened.name,
            layout,
            words=self._words,
            lock_fd=opened.lock_fd,
            ledger=self._ledger,
        )
        self._lost: deque[tuple[int, Extent]] = deque()
        self._reaped_s = time.monotonic()
        self._hits = self._misses = self._bytes_saved = self._waits = 0
        self._mutex = threading.RLock()
        self._state = "open"
        self._metrics = metrics
        self._finalizer = weakref.finalize(self, _forget, os.getpid(), opened)
        fork.watch(self)
        if metrics is not None:
            metrics.watch(self)

    @classmethod
    def create(
        cls,
        *,
        nbytes: int,
        ranks: int,
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
        ranks : int
            How many ranks read every slot, 1 to 64.
        slots : int
            How many handles may be unreleased at once.
        backing : {"shm", "file", "memfd"}
            A file of /dev/shm, a file of ``directory``, or a memfd to pass over a socket.
        directory : path, optional
            Where the file lies; for "shm" another tmpfs than /dev/shm.
        name : str, optional
            ``mmf-`` and letters, digits and hyphens; made of uid, pid, start time and a random
            part when omitted.
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
        **Cost**: every page is touched once, about 0.4 s a GiB.
        """
        check_counts(nbytes=nbytes, ranks=ranks, slots=slots)
        place = directory_of(backing, directory)
        metrics = metrics_of(registry)
        if place is not None:
            for dead in sweep(place):
                _LOG.warning("removed segment %s, whose processes are dead", dead)
        opened, mapping = create_segment(
            data_nbytes=nbytes, ranks=ranks, slots=slots, directory=place, name=name
        )
        return cls(opened, mapping, metrics)

    def reserve(self, nbytes: int, *, timeout_s: float = 0.0) -> Slot:
        """Return a range to write, waiting for the readers as long as the caller allows.

        Raises
        ------
        ArenaFullError
            At once when the arena could never hold it, after ``timeout_s`` when it cannot now.
        TransportError
            With code ``slot-nbytes``, ``closed`` or ``forked``.

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
                code="arena-too-small",
            )
        started_s = time.monotonic()
        deadline_s = started_s + timeout_s
        wait_s = _FIRST_WAIT_S
        while (slot := self._try_reserve(nbytes, first=wait_s == _FIRST_WAIT_S)) is None:
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                raise self._full(nbytes, timeout_s)
            time.sleep(min(wait_s, left_s))
            wait_s = min(wait_s * 2, _LONGEST_WAIT_S)
        if self._metrics is not None and wait_s > _FIRST_WAIT_S:
            self._metrics.wait_s.observe(time.monotonic() - started_s)
        return slot

    def find(self, identity: bytes) -> Handle | None:
        """Grant content that is already there to every reader once more, or return None.

        Notes
        -----
        **Copies**: none. The new handle has a record of its own, so readers release each grant
        for itself, in any order.
        """
        with self._mutex:
            self._check_open()
            self._tidy()
            extent = self._ledger.find(identity) if identity else None
            if extent is not None and not self._grants.free:
                self._collect()
            if extent is None or not self._grants.free:
                self._misses += 1
                return None
            self._hits += 1
            self._bytes_saved += extent.content_nbytes
            return self._grants.grant(self._grants.free.pop(), extent)

    def revoke(self, handle: Handle) -> None:
        """Take back a handle that was sent to nobody; content that has an identity stays known.

        Raises
        ------
        TransportError
            With code ``closed`` or ``forked``.
        """
        with self._mutex:
            self._check_open()
            self._grants.revoke(handle.slot, handle.generation)

    def lend(self, handle: Handle) -> Lent:
        """Return a read-only view of a slot that keeps its bytes until the view is collected.

        The slot may be released by every rank, or revoked, meanwhile: its bytes are used again
        only when nothing looks at them any more.

        Raises
        ------
        StaleHandleError
            When the slot has other content by now, or none.
        TransportError
            With code ``closed`` or ``forked``.

        Notes
        -----
        **Copies**: none.
        """
        with self._mutex:
            self._check_open()
            extent = self._grants.extent_of(handle)
            owner = None if extent.writer is None else extent.writer()
            if owner is None or owner.size < extent.content_nbytes:
                owner = np.frombuffer(
                    self._mapping, np.uint8, count=extent.content_nbytes, offset=extent.offset
                )
                extent.writer = weakref.ref(owner)
            view = owner[: extent.content_nbytes]
            view.flags.writeable = False
            return Lent(view, extent.identity)

    def withdraw(self, handle: Handle, ranks: Collection[int]) -> None:
        """Stop waiting for ranks that were never sent this handle, and never will be.

        Raises
        ------
        TransportError
            With code ``closed`` or ``forked``.
        """
        with self._mutex:
            self._check_open()
            self._grants.withdraw(handle, ranks)

    def reap(self) -> int:
        """Take back what dead readers held and what all living ones released; count the former.

        Raises
        ------
        TransportError
            With code ``closed`` or ``forked``.
        """
        with self._mutex:
            self._check_open()
            return self._reap()

    def stats(self) -> ArenaStats:
        """Return the counts of this moment.

        Raises
        ------
        TransportError
            With code ``closed`` or ``forked``.
        """
        with self._mutex:
            self._check_open()
            self._collect()
            ledger, grants = self._ledger, self._grants
            ledger.settle()
            return ArenaStats(
                name=self.name,
                nbytes=self.nbytes,
                free_nbytes=ledger.allocator.free_nbytes,
                largest_free_nbytes=ledger.allocator.largest,
                cached_nbytes=ledger.cached_nbytes,
                slots=self.slots,
                slots_granted=len(grants),
                readers_attached=grants.present,
                hits=self._hits,
                misses=self._misses,
                bytes_saved=self._bytes_saved,
                evictions=ledger.evictions,
                reclaimed=grants.reclaimed,
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
            f"ShmArena({self.name}, {self.nbytes:,} bytes, {self.ranks} ranks, "
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
        with self._mutex:
            free = self._ledger.allocator
            return Shortage(
                wanted_nbytes=nbytes,
                timeout_s=timeout_s,
                nbytes=self.nbytes,
                free_nbytes=free.free_nbytes,
                largest_free_nbytes=free.largest,
                slots=self.slots,
                free_slots=len(self._grants.free),
                unsealed_slots=self.slots - len(self._grants.free) - len(self._grants),
                writer_nbytes=sum(extent.nbytes for extent in self._ledger.lingering),
                holdings=self._grants.holdings(),
            ).error()

    def _try_reserve(self, nbytes: int, *, first: bool) -> Slot | None:
        with self._mutex:
            self._check_open()
            if first:
                self._tidy()
                extent = self._take(nbytes)
            else:
                extent = None
            if extent is None:
                self._reap()
                extent = self._take(nbytes)
            if extent is None:
                if first:
                    self._waits += 1
                return None
            step("reserve.allocated")
            return Slot(self, self._grants.free.pop(), extent=extent, mapping=self._mapping)

    def _take(self, nbytes: int) -> Extent | None:
        return self._ledger.take(nbytes) if self._grants.free else None

    def _tidy(self) -> None:
        if time.monotonic() - self._reaped_s > _REAP_INTERVAL_S:
            self._reap()
        else:
            self._collect(_COLLECTED_PER_CALL)

    def _reap(self) -> int:
        self._reaped_s = time.monotonic()
        reclaimed = self._grants.reap()
        self._collect()
        return reclaimed

    def _collect(self, most: int | None = None) -> None:
        while self._lost:
            self._abandon(*self._lost.popleft())
        self._grants.collect(most)

    def _observe_put(self, started_s: float) -> None:
        if self._metrics is not None:
            self._metrics.put_s.observe(time.monotonic() - started_s)

    def _seal(self, record: int, extent: Extent, nbytes: int, identity: bytes) -> Handle:
        with self._mutex:
            self._check_open()
            self._ledger.shrink(extent, nbytes)
            self._ledger.learn(extent, identity)
            return self._grants.grant(record, extent)

    def _abandon(self, record: int, extent: Extent) -> None:
        with self._mutex:
            if self._state == "open":
                self._grants.free.append(record)
                self._ledger.drop(extent)

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
