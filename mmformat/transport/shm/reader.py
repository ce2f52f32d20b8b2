"""A rank's side of an arena: map a sealed slot, and say when nobody looks at it any more."""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from mmformat.errors import StaleHandleError, TransportError
from mmformat.transport.shm import fork, liveness, segment
from mmformat.transport.shm.handle import Handle
from mmformat.transport.shm.layout import PAGE, ROW_WORDS
from mmformat.transport.shm.mapping import Mapping
from mmformat.transport.shm.segment import SHM_DIRECTORY, Segment
from mmformat.transport.shm.steps import step

__all__ = ["ShmReader"]

_Key = tuple[int, int]


class ShmReader:
    """Read the slots of one segment as one rank.

    Made by :meth:`attach`. A context manager; views that outlive it stay readable, and its place
    is given back when the last of them is gone.

    Examples
    --------
    >>> from mmformat.transport.shm import ShmArena
    >>> with ShmArena.create(nbytes=2**20, readers=1) as arena:
    ...     slot = arena.reserve(5)
    ...     slot.view[:] = b"hello"
    ...     handle = slot.seal()
    ...     with ShmReader.attach(handle, reader=0) as reader:
    ...         bytes(reader.map(handle))
    b'hello'
    """

    def __init__(self, opened: Segment, reader: int) -> None:
        layout = opened.layout
        self.name = opened.name
        self.reader = reader
        self._segment = opened
        self._layout = layout
        self._control = opened.map_shared(offset=0, nbytes=layout.rows_offset, writable=False)
        self._words = memoryview(self._control).cast("Q")
        self._row_map = opened.map_shared(
            offset=layout.row(reader) * 8, nbytes=layout.row_nbytes, writable=True
        )
        self._row = memoryview(self._row_map).cast("Q")
        self._live: dict[_Key, int] = {}
        self._mappings: weakref.WeakSet[Mapping] = weakref.WeakSet()
        self._unmapped: deque[_Key] = deque()
        self._stuck: deque[Mapping] = deque()
        self._mutex = threading.Lock()
        self._state = "open"
        fork.watch(self)

    @classmethod
    def attach(
        cls,
        name_or_handle: str | Handle,
        *,
        reader: int,
        directory: str | os.PathLike[str] = SHM_DIRECTORY,
    ) -> Self:
        """Open a segment as the rank with this number.

        Raises
        ------
        TransportError
            With code ``segment-name``, ``segment-gone``, ``segment-unsafe``, ``segment-magic``,
            ``segment-version``, ``segment-crc``, ``segment-size`` or ``segment-creating`` when the
            segment is not to be trusted, ``producer-gone`` when nobody writes it any more,
            ``reader`` when it has no such rank, ``reader-taken`` when that rank is attached.
        StaleHandleError
            When a handle's segment has been replaced by another of the same name.

        Notes
        -----
        A rank that was never attached gets everything that was sealed since the segment exists. A
        rank that was, and died or detached, starts anew: older handles are stale for it.
        """
        handle = name_or_handle if isinstance(name_or_handle, Handle) else None
        name = name_or_handle.name if isinstance(name_or_handle, Handle) else name_or_handle
        opened = segment.open_path(name, directory=Path(directory))
        if handle is not None and handle.segment_id != opened.layout.segment_id:
            opened.close()
            raise StaleHandleError(f"expected a handle of the present {name}, got an old one")
        return cls._enter(opened, reader)

    @classmethod
    def attach_fd(cls, fd: int, *, reader: int) -> Self:
        """Open the segment behind a descriptor that was sent over a Unix socket; it is duplicated.

        Raises
        ------
        TransportError
            As :meth:`attach`.
        """
        duplicate = os.dup(fd)
        return cls._enter(segment.open_fd(duplicate, name="mmf-memfd"), reader)

    @classmethod
    def _enter(cls, opened: Segment, reader: int) -> Self:
        try:
            step("attach.opened")
            if not 0 <= reader < opened.layout.readers:
                raise TransportError(
                    f"expected reader 0 to {opened.layout.readers - 1}, got {reader}", code="reader"
                )
            if not liveness.try_lock(opened.lock_fd, liveness.reader_byte(reader)):
                raise TransportError(
                    f"expected reader {reader} to be free, got one that is attached",
                    hint="each rank attaches once; give every process its own number",
                    code="reader-taken",
                )
            step("attach.locked")
            # With the lock held the segment cannot be swept, so this answer stays true enough.
            if not liveness.is_locked(opened.lock_fd, liveness.PRODUCER_BYTE):
                raise TransportError(
                    f"expected a living producer of {opened.name}, got a segment it left",
                    hint="attach to the segment of the producer that took over",
                    code="producer-gone",
                )
            self = cls(opened, reader)
        except BaseException:
            opened.close()
            raise
        self._announce()
        return self

    def _announce(self) -> None:
        words, row, layout = self._words, self._row, self._layout
        incarnation = row[0] >> 1
        if incarnation:
            # What an earlier process under this number held is not ours.
            for slot in range(layout.slots):
                generation = words[layout.record(slot)]
                row[ROW_WORDS + slot] = max(row[ROW_WORDS + slot], generation)
            step("attach.given-back")
        row[1] = os.getpid()
        row[2] = liveness.start_time(os.getpid()) or 0
        row[3] = time.time_ns()
        row[0] = (incarnation + 1) << 1 | 1
        step("attach.attached")

    @property
    def producer_alive(self) -> bool:
        """Whether the producer still lives; what it sealed stays readable if not."""
        self._check_open()
        return liveness.is_locked(self._segment.lock_fd, liveness.PRODUCER_BYTE)

    def map(self, handle: Handle) -> Mapping:
        """Return a private, writable view of a slot's pages, made for this call.

        Raises
        ------
        StaleHandleError
            When the handle's content is gone, was released here, or was never granted to this rank.
        TransportError
            With code ``handle`` for one that contradicts the segment, ``closed`` or ``forked``.

        Notes
        -----
        **Copies**: none; a page is copied when it is first written to. **Lifetime**: the pages stay
        until the last tensor or view over the result is collected, then the slot is released.
        """
        key = (handle.slot, handle.generation)
        with self._books():
            self._check(handle)
            self._live[key] = self._live.get(key, 0) + 1
        try:
            step("map.checked")
            mapping = Mapping.of(self, handle, self._segment.fd)
            self._mappings.add(mapping)
            step("map.mapped")
        except BaseException:
            self._forget(key)
            raise
        if self._words[self._layout.record(handle.slot)] != handle.generation:
            del mapping
            raise StaleHandleError(f"expected slot {handle.slot} to stay as it was, got it reused")
        return mapping

    def release(self, handle: Handle) -> None:
        """Say that this rank needs the slot no more, whether it ever mapped it or not.

        Raises
        ------
        TransportError
            With code ``views-alive`` while a tensor or view of it exists here; its collection
            releases the slot without this call.
        StaleHandleError
            When it was released already, or was never granted to this rank.
        """
        with self._books():
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

    def close(self) -> None:
        """Detach; what was granted and not mapped is released. A second call does nothing."""
        with self._books():
            if self._state == "open":
                self._state = "closing"

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
            f"ShmReader({self.name}, reader {self.reader}, {len(self._live)} slots, {self._state})"
        )

    def _check_open(self) -> None:
        if self._state != "open":
            forked = self._state == "forked"
            raise TransportError(
                f"expected an attached reader, got one that is {self._state}",
                hint="attach in the process that reads" if forked else None,
                code="forked" if forked else "closed",
            )

    def _check(self, handle: Handle) -> None:
        self._check_open()
        layout = self._layout
        if handle.segment_id != layout.segment_id:
            raise StaleHandleError(f"expected a handle of {self.name}, got one of {handle.name}")
        end = handle.offset + handle.nbytes
        if (
            not 0 <= handle.slot < layout.slots
            or handle.offset % PAGE
            or not layout.data_offset <= handle.offset < end <= layout.segment_nbytes
        ):
            raise TransportError("expected a handle within its segment", code="handle")
        if not handle.holders >> self.reader & 1:
            raise StaleHandleError(
                f"expected a handle for reader {self.reader}, got one from before it attached"
            )
        # Only this rank writes this word, so until it does the producer cannot use the slot again.
        if self._row[ROW_WORDS + handle.slot] >= handle.generation:
            raise StaleHandleError(
                f"expected slot {handle.slot} generation {handle.generation} unreleased, got it "
                "released by this rank"
            )
        at = layout.record(handle.slot)
        if self._words[at] != handle.generation:
            raise StaleHandleError(
                f"expected slot {handle.slot} at generation {handle.generation}, got "
                f"{self._words[at]}"
            )
        if (self._words[at + 1], self._words[at + 2]) != (handle.offset, handle.nbytes):
            raise TransportError("expected a handle that matches its slot", code="handle")

    def _forget(self, key: _Key) -> None:
        # Called by a finalizer, perhaps inside our own lock: leave a note, settle if nobody is in.
        self._unmapped.append(key)
        self._settle()

    @contextmanager
    def _books(self) -> Iterator[None]:
        self._settle()
        try:
            with self._mutex:
                yield
        finally:
            self._settle()  # the notes of finalizers that found the lock taken

    def _settle(self) -> None:
        for _ in range(len(self._stuck)):
            self._stuck.popleft().let_go()
        while self._is_unsettled() and self._mutex.acquire(blocking=False):
            try:
                while self._unmapped:
                    self._count_down(self._unmapped.popleft())
                if self._state == "closing" and not self._live:
                    self._detach()
            finally:
                self._mutex.release()

    def _is_unsettled(self) -> bool:
        return bool(self._unmapped) or (self._state == "closing" and not self._live)

    def _count_down(self, key: _Key) -> None:
        left = self._live.pop(key) - 1
        if left:
            self._live[key] = left
        elif self._state != "forked":
            # The unmap came first: on aarch64 its TLB invalidation ends in DSB ISH, which waits for
            # every load through the old mapping, on every core.
            step("release.unmapped")
            slot, generation = key
            self._row[ROW_WORDS + slot] = max(self._row[ROW_WORDS + slot], generation)
            step("release.released")

    def _detach(self) -> None:
        self._state = "closed"
        self._row[0] &= ~1
        step("detach.detached")
        for view in (self._row, self._words):
            view.release()
        self._row_map.close()
        self._control.close()
        self._segment.close()

    def before_fork(self) -> None:
        """Copy what is mapped, so that the child's views never show another message."""
        self._mutex.acquire()
        for mapping in list(self._mappings):
            mapping.make_private()

    def after_fork(self) -> None:
        """Go on."""
        self._mutex.release()
        self._settle()

    def after_fork_in_child(self) -> None:
        """Give up the rank: it is the parent's."""
        self._mutex = threading.Lock()
        if self._state in ("open", "closing"):
            self._state = "forked"
            self._segment.close()
