"""An arena within one process: the same promises in the plainest form, to hold the others to."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Self

from mmformat.errors import ArenaFullError, StaleHandleError, TransportError
from mmformat.shm.handle import Handle
from mmformat.shm.layout import page_ceiling

__all__ = ["MemoryArena", "MemoryMapping", "MemoryReader", "MemorySlot"]

_ARENAS: Final[weakref.WeakValueDictionary[str, MemoryArena]] = weakref.WeakValueDictionary()


@dataclass(slots=True, eq=False)
class _Content:
    data: bytes
    reserved_nbytes: int
    identity: bytes = b""
    grants: int = 0


@dataclass(slots=True, eq=False)
class _Grant:
    content: _Content
    waiting: set[int] = field(default_factory=set)


class MemoryMapping(bytearray):
    """Hold a rank's private bytes; the slot is released when it is collected."""

    _done: tuple[MemoryReader, Handle] | None = None

    def __del__(self) -> None:
        if self._done is not None:
            rank, handle = self._done
            rank._collected(handle)


class MemorySlot:
    """Hold bytes until they are sealed, once, or abandoned."""

    def __init__(self, arena: MemoryArena, nbytes: int) -> None:
        self.nbytes = nbytes
        self._arena: MemoryArena | None = arena
        self._bytes = bytearray(nbytes)

    @property
    def view(self) -> memoryview:
        """The bytes to write."""
        if self._arena is None:
            raise TransportError("expected a slot that is not sealed yet", code="slot-sealed")
        return memoryview(self._bytes)

    def seal(self, nbytes: int | None = None, *, identity: bytes = b"") -> Handle:
        """Grant the bytes to every rank that is there or still to come."""
        if self._arena is None:
            raise TransportError("expected a slot that is not sealed yet", code="slot-sealed")
        size = self.nbytes if nbytes is None else nbytes
        if not 1 <= size <= self.nbytes:
            raise TransportError(f"expected 1 to {self.nbytes} bytes", code="slot-nbytes")
        if len(identity) > 32:
            raise TransportError("expected at most 32 bytes", code="identity")
        arena, self._arena = self._arena, None
        return arena._seal(self, bytes(self._bytes[:size]), identity)

    def abandon(self) -> None:
        """Give the bytes back unsealed."""
        if self._arena is not None:
            self._arena._reserved.remove(self)
            self._arena = None


class MemoryArena:
    """Keep messages for N ranks of this process; the oracle of the shared one.

    Its room is a number of pages without places, so it never fragments: what it refuses, a real
    arena of that size refuses too.

    Examples
    --------
    >>> arena = MemoryArena.create(nbytes=2**16, ranks=1)
    >>> slot = arena.reserve(5)
    >>> slot.view[:] = b"hello"
    >>> handle = slot.seal()
    >>> bytes(MemoryReader.attach(handle, rank=0).map(handle))
    b'hello'
    """

    def __init__(self, name: str, nbytes: int, ranks: int, slots: int) -> None:
        self.name = name
        self.nbytes = page_ceiling(nbytes)
        self.ranks = ranks
        self.slots = slots
        self.reclaimed = self.evictions = 0
        self._next = 1
        self._reserved: list[MemorySlot] = []
        self._grants: dict[int, _Grant] = {}
        self._contents: list[_Content] = []
        self._cached: list[_Content] = []
        self._attached: dict[int, MemoryReader] = {}
        self._seen: set[int] = set()
        self._open = True

    @classmethod
    def create(
        cls, *, nbytes: int, ranks: int, slots: int = 1024, name: str = "mmf-memory"
    ) -> Self:
        """Create an arena of this process, under a name that replaces the last one of its kind."""
        arena = cls(name, nbytes, ranks, slots)
        _ARENAS[name] = arena
        return arena

    @property
    def free_nbytes(self) -> int:
        """Bytes of the pages that nothing is in."""
        used = sum(page_ceiling(content.reserved_nbytes) for content in self._contents)
        return self.nbytes - used - sum(page_ceiling(slot.nbytes) for slot in self._reserved)

    @property
    def slots_granted(self) -> int:
        """Handles that some rank has not released."""
        return len(self._grants)

    def reserve(self, nbytes: int, *, timeout_s: float = 0.0) -> MemorySlot:
        """Return bytes to write. Nothing can happen while it waits, so it does not."""
        self._check_open()
        if nbytes < 1:
            raise TransportError("expected at least 1 byte", code="slot-nbytes")
        if nbytes > self.nbytes:
            raise ArenaFullError(f"expected at most {self.nbytes}", code="arena-too-small")
        if len(self._grants) + len(self._reserved) >= self.slots:
            raise ArenaFullError("expected a free slot")
        while self.free_nbytes < page_ceiling(nbytes):
            if not self._cached:
                raise ArenaFullError(f"expected {nbytes} bytes of room")
            self._contents.remove(self._cached.pop(0))
            self.evictions += 1
        self._reserved.append(slot := MemorySlot(self, nbytes))
        return slot

    def find(self, identity: bytes) -> Handle | None:
        """Grant content that is there once more."""
        self._check_open()
        for content in self._contents:
            if identity and content.identity == identity:
                full = len(self._grants) + len(self._reserved) >= self.slots
                return None if full else self._grant(content)
        return None

    def revoke(self, handle: Handle) -> None:
        """Take back a handle that was sent to nobody."""
        self._check_open()
        grant = self._grants.get(handle.generation)
        if grant is not None:
            grant.waiting.clear()
            self._drop_unheld()

    def kill(self, rank: int) -> None:
        """Let a rank die, as SIGKILL would."""
        held = sum(rank in grant.waiting for grant in self._grants.values())
        self.reclaimed += held
        self._leave(rank)

    def close(self) -> None:
        """Close; ranks keep what they have."""
        self._open = False
        _ARENAS.pop(self.name, None)

    def _check_open(self) -> None:
        if not self._open:
            raise TransportError("expected an open arena", code="closed")

    def _seal(self, slot: MemorySlot, data: bytes, identity: bytes) -> Handle:
        self._check_open()
        self._reserved.remove(slot)
        known = any(identity and other.identity == identity for other in self._contents)
        content = _Content(data, len(data), b"" if known else identity)
        self._contents.append(content)
        return self._grant(content)

    def _grant(self, content: _Content) -> Handle:
        ranks = range(self.ranks)
        waiting = {rank for rank in ranks if rank in self._attached or rank not in self._seen}
        number, self._next = self._next, self._next + 1
        self._grants[number] = _Grant(content, waiting)
        content.grants += 1
        if content in self._cached:
            self._cached.remove(content)
        holders = sum(1 << rank for rank in waiting)
        handle = Handle(
            name=self.name,
            segment_id=bytes(16),
            slot=0,
            generation=number,
            offset=0,
            nbytes=len(content.data),
            holders=holders,
        )
        self._drop_unheld()
        return handle

    def _leave(self, rank: int) -> None:
        self._attached.pop(rank, None)
        for grant in self._grants.values():
            grant.waiting.discard(rank)
        self._drop_unheld()

    def _drop_unheld(self) -> None:
        for number in [number for number, grant in self._grants.items() if not grant.waiting]:
            content = self._grants.pop(number).content
            content.grants -= 1
            if content.grants == 0 and content.identity:
                self._cached.append(content)
            elif content.grants == 0:
                self._contents.remove(content)


class MemoryReader:
    """Read a MemoryArena as one rank."""

    def __init__(self, arena: MemoryArena, rank: int) -> None:
        self.rank = rank
        self._arena = arena
        self._live: dict[int, int] = {}
        self._released: set[int] = set()
        self._closing = False

    @classmethod
    def attach(cls, name_or_handle: str | Handle, *, rank: int) -> Self:
        """Attach to the arena of this name in this process."""
        name = name_or_handle.name if isinstance(name_or_handle, Handle) else name_or_handle
        arena = _ARENAS.get(name)
        if arena is None:
            raise TransportError(f"expected an arena called {name}", code="segment-gone")
        if not 0 <= rank < arena.ranks:
            raise TransportError(f"expected a rank under {arena.ranks}", code="reader")
        if rank in arena._attached:
            raise TransportError(f"expected rank {rank} to be free", code="reader-taken")
        self = cls(arena, rank)
        arena._attached[rank] = self
        arena._seen.add(rank)
        return self

    def map(self, handle: Handle) -> MemoryMapping:
        """Return a private copy of a slot's bytes."""
        grant = self._check(handle)
        mapping = MemoryMapping(grant.content.data)
        self._live[handle.generation] = self._live.get(handle.generation, 0) + 1
        mapping._done = (self, handle)
        return mapping

    def release(self, handle: Handle) -> None:
        """Say that this rank needs the slot no more; what it released already stays released."""
        self._check_attached()
        if handle.generation in self._released:
            return
        grant = self._check(handle)
        if self._live.get(handle.generation):
            raise TransportError("expected no view of the slot", code="views-alive")
        grant.waiting.discard(self.rank)
        self._released.add(handle.generation)
        self._arena._drop_unheld()

    def close(self) -> None:
        """Detach when the last view is gone."""
        self._closing = True
        self._leave_when_empty()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _check_attached(self) -> None:
        if self._closing or self._arena._attached.get(self.rank) is not self:
            raise TransportError("expected an attached reader", code="closed")

    def _check(self, handle: Handle) -> _Grant:
        self._check_attached()
        grant = self._arena._grants.get(handle.generation)
        if grant is None or self.rank not in grant.waiting:
            raise StaleHandleError(f"expected handle {handle.generation} to be held")
        return grant

    def _collected(self, handle: Handle) -> None:
        left = self._live[handle.generation] = self._live[handle.generation] - 1
        if left:
            return
        del self._live[handle.generation]
        grant = self._arena._grants.get(handle.generation)
        if grant is not None and self._arena._attached.get(self.rank) is self:
            grant.waiting.discard(self.rank)
            self._released.add(handle.generation)
            self._arena._drop_unheld()
        self._leave_when_empty()

    def _leave_when_empty(self) -> None:
        here = self._arena._attached.get(self.rank) is self
        if here and self._closing and not self._live:
            self._arena._leave(self.rank)
