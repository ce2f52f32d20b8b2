"""The arena as a state machine, step by step beside the in-memory oracle."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from mmformat.errors import MMFormatError
from mmformat.shm import Handle, ShmArena, ShmReader
from mmformat.shm.layout import PAGE, page_ceiling
from tests.support.memory import MemoryArena, MemoryReader

READERS = 3
PAGES = 12
SLOTS = 6
READER = st.integers(0, READERS - 1)
PICK = st.integers(0, 2**16)
SIZE = st.integers(1, 5 * PAGE) | st.sampled_from([PAGE, 2 * PAGE, PAGES * PAGE, PAGES * PAGE + 1])
IDENTITY = st.sampled_from([b"", b"", b"a", b"b", b"c"])


def _try(verb: Any, *arguments: Any, **options: Any) -> tuple[str, Any]:
    try:
        return "ok", verb(*arguments, **options)
    except MMFormatError as error:
        return error.code, None


class ArenaMachine(RuleBasedStateMachine):
    """Do everything to both arenas; whatever a caller can see must be equal."""

    @initialize()
    def create(self) -> None:
        self.directory = tempfile.TemporaryDirectory()
        self.shm = ShmArena.create(
            nbytes=PAGES * PAGE,
            ranks=READERS,
            slots=SLOTS,
            backing="file",
            directory=self.directory.name,
        )
        self.oracle = MemoryArena.create(
            nbytes=PAGES * PAGE, ranks=READERS, slots=SLOTS, name="mmf-oracle"
        )
        self.handles: list[tuple[Handle, Handle]] = []
        self.revoked: list[tuple[Handle, Handle]] = []
        self.readers: dict[int, tuple[ShmReader, MemoryReader]] = {}
        self.views: list[tuple[Any, Any, bytes, int]] = []
        self.contents: dict[Handle, bytes] = {}
        self.number = 0

    @rule(nbytes=SIZE, identity=IDENTITY, kept=st.floats(0, 1))
    def put(self, nbytes: int, identity: bytes, kept: float) -> None:
        real, real_slot = _try(self.shm.reserve, nbytes)
        expected, oracle_slot = _try(self.oracle.reserve, nbytes)
        if real == "arena-full" and expected == "ok":
            # Only for want of room in one piece; then the whole cache has been given up for it.
            assert self.shm.stats().largest_free_nbytes < page_ceiling(nbytes)
            oracle_slot.abandon()
            self._forget_cached()
            return
        assert real == expected
        if real != "ok":
            return
        if kept < 0.1:
            real_slot.abandon()
            oracle_slot.abandon()
            return
        self.number += 1
        size = max(1, int(nbytes * kept))
        content = (self.number.to_bytes(4, "little") * (nbytes // 4 + 1))[:nbytes]
        real_slot.view[:] = content
        oracle_slot.view[:] = content
        pair = real_slot.seal(size, identity=identity), oracle_slot.seal(size, identity=identity)
        self.contents[pair[0]] = content[:size]
        self._announce(pair, kept < 0.9)

    def _announce(self, pair: tuple[Handle, Handle], sent: bool) -> None:
        if sent:
            self.handles.append(pair)
            return
        self.shm.revoke(pair[0])
        self.oracle.revoke(pair[1])
        self.revoked.append(pair)

    @rule(rank=READER, pick=PICK)
    def map_revoked(self, rank: int, pick: int) -> None:
        if rank in self.readers and self.revoked:
            pair = self.revoked[pick % len(self.revoked)]
            for each, handle in zip(self.readers[rank], pair, strict=True):
                assert _try(each.map, handle)[0] in ("stale-handle", "closed")

    @rule(identity=IDENTITY, sent=st.booleans())
    def find(self, identity: bytes, sent: bool) -> None:
        real, expected = self.shm.find(identity), self.oracle.find(identity)
        if real is None and expected is not None:
            # Given up earlier for room in one piece; then nobody may have held it.
            content = self.oracle._grants.pop(expected.generation).content
            assert content.grants == 1
            content.grants = 0
            self.oracle._contents.remove(content)
            return
        assert (real is None) == (expected is None)
        if real is not None and expected is not None:
            content = self.oracle._grants.get(expected.generation)
            data = content.content.data if content else None
            if data is not None:
                self.contents[real] = data
                self._announce((real, expected), sent)

    @rule(rank=READER)
    def attach(self, rank: int) -> None:
        real, real_reader = _try(
            ShmReader.attach, self.shm.name, rank=rank, directory=self.directory.name
        )
        expected, oracle_reader = _try(MemoryReader.attach, self.oracle.name, rank=rank)
        assert real == expected
        if real == "ok":
            self.readers[rank] = real_reader, oracle_reader

    @rule(rank=READER, pick=PICK)
    def map(self, rank: int, pick: int) -> None:
        if rank in self.readers and self.handles:
            real_handle, oracle_handle = self.handles[pick % len(self.handles)]
            real_reader, oracle_reader = self.readers[rank]
            real, mapping = _try(real_reader.map, real_handle)
            expected, oracle_mapping = _try(oracle_reader.map, oracle_handle)
            assert real == expected
            if real == "ok":
                content = self.contents[real_handle]
                self.views.append((memoryview(mapping), memoryview(oracle_mapping), content, rank))

    @rule(pick=PICK)
    def drop(self, pick: int) -> None:
        if self.views:
            del self.views[pick % len(self.views)]

    @rule(rank=READER, pick=PICK)
    def release(self, rank: int, pick: int) -> None:
        if rank in self.readers and self.handles:
            real_handle, oracle_handle = self.handles[pick % len(self.handles)]
            real_reader, oracle_reader = self.readers[rank]
            real, _ = _try(real_reader.release, real_handle)
            expected, _ = _try(oracle_reader.release, oracle_handle)
            assert real == expected

    @rule(rank=READER)
    def close(self, rank: int) -> None:
        if rank in self.readers:
            for each in self.readers[rank]:
                each.close()

    @rule(rank=READER)
    def kill(self, rank: int) -> None:
        if rank not in self.readers:
            return
        real_reader, oracle_reader = self.readers.pop(rank)
        if self.oracle._attached.get(rank) is oracle_reader:
            real_reader._claims.disown()  # the lock is gone, and no word is written
            self.oracle.kill(rank)
            self.views = [view for view in self.views if view[3] != rank]  # they die with it

    @invariant()
    def the_same_is_held(self) -> None:
        if hasattr(self, "shm"):
            self.shm.reap()
            stats = self.shm.stats()
            assert stats.slots_granted == self.oracle.slots_granted
            assert stats.reclaimed == self.oracle.reclaimed
            assert self._unheld_of_shm() == self._unheld_of_oracle()

    @invariant()
    def no_view_changes(self) -> None:
        for real, expected, content, _ in getattr(self, "views", ()):
            assert real == expected == content

    def _unheld_of_shm(self) -> int:
        ledger = self.shm._ledger
        cached = sum(page_ceiling(extent.nbytes) for extent in ledger.cached.values())
        return ledger.allocator.free_nbytes + cached

    def _unheld_of_oracle(self) -> int:
        cached = sum(page_ceiling(content.reserved_nbytes) for content in self.oracle._cached)
        return self.oracle.free_nbytes + cached

    def _forget_cached(self) -> None:
        for content in self.oracle._cached:
            self.oracle._contents.remove(content)
        self.oracle._cached.clear()

    def teardown(self) -> None:
        if not hasattr(self, "shm"):
            return
        self.views.clear()
        for pair in self.readers.values():
            for each in pair:
                each.close()
        self.shm.close()
        self.oracle.close()
        assert list(Path(self.directory.name).iterdir()) == []
        self.directory.cleanup()


TestArenaMachine = ArenaMachine.TestCase
TestArenaMachine.settings = settings(max_examples=50, stateful_step_count=40)
