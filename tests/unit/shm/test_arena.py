"""Slots: write-once, held by every reader, used again only when all have let go."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from mmformat.errors import ArenaFullError, StaleHandleError, TransportError
from mmformat.shm import Handle, ShmArena, ShmReader, list_segments, sweep
from mmformat.shm.layout import PAGE

PAGES = 16


@pytest.fixture
def arena() -> Iterator[ShmArena]:
    with ShmArena.create(nbytes=PAGES * PAGE, ranks=2, slots=8) as arena:
        yield arena


@pytest.fixture
def ranks(arena: ShmArena) -> Iterator[list[ShmReader]]:
    ranks = [ShmReader.attach(arena.name, rank=reader) for reader in range(2)]
    yield ranks
    for rank in ranks:
        rank.close()


def _put(arena: ShmArena, content: bytes, *, identity: bytes = b"") -> Handle:
    with arena.reserve(len(content)) as slot:
        slot.view[:] = content
        return slot.seal(identity=identity)


def test_the_file_is_private_preallocated_and_named_after_its_maker(arena: ShmArena) -> None:
    path = Path("/dev/shm", arena.name)
    status = path.stat()
    assert status.st_mode & 0o777 == 0o600
    assert status.st_blocks * 512 >= status.st_size
    prefix, uid, pid, start, random = arena.name.split("-")
    assert (prefix, int(uid), int(pid)) == ("mmf", os.geteuid(), os.getpid())
    stat = Path(f"/proc/{os.getpid()}/stat").read_text()
    assert start == stat.rpartition(")")[2].split()[19]
    assert len(random) == 8


def test_every_reader_gets_the_bytes_and_the_slot_starts_on_a_page(
    arena: ShmArena, ranks: list[ShmReader]
) -> None:
    for length in (1, PAGE - 1, PAGE, PAGE + 1, 3 * PAGE):
        content = os.urandom(length)
        handle = _put(arena, content)
        assert handle.offset % PAGE == 0
        for rank in ranks:
            assert bytes(rank.map(handle)) == content


def test_a_rank_may_write_and_nobody_else_sees_it(arena: ShmArena, ranks: list[ShmReader]) -> None:
    handle = _put(arena, b"\x01" * PAGE)
    mine = torch.frombuffer(ranks[0].map(handle), dtype=torch.uint8)
    mine += 1
    other = torch.frombuffer(ranks[1].map(handle), dtype=torch.uint8)
    again = torch.frombuffer(ranks[0].map(handle), dtype=torch.uint8)
    assert mine[0] == 2
    assert other[0] == again[0] == 1


def test_a_slot_is_used_again_only_after_the_last_reader(
    arena: ShmArena, ranks: list[ShmReader]
) -> None:
    handle = _put(arena, bytes(PAGES * PAGE))
    ranks[0].release(handle)
    with pytest.raises(ArenaFullError):
        arena.reserve(1)
    ranks[1].release(handle)
    again = _put(arena, bytes(PAGES * PAGE))
    assert (again.slot, again.generation) == (handle.slot, handle.generation + 1)
    for rank in ranks:
        with pytest.raises(StaleHandleError):
            rank.map(handle)


def test_the_last_tensor_releases(arena: ShmArena, ranks: list[ShmReader]) -> None:
    handle = _put(arena, bytes(PAGES * PAGE))
    ranks[1].release(handle)
    mapping = ranks[0].map(handle)
    tensor = torch.frombuffer(mapping, dtype=torch.float32, offset=64)
    part = tensor[3:7].view(2, 2)
    array = np.frombuffer(memoryview(mapping)[128:], np.uint8)[::2]
    del mapping, tensor
    with pytest.raises(ArenaFullError):
        arena.reserve(1)
    del part
    with pytest.raises(ArenaFullError):
        arena.reserve(1)
    assert array[0] == 0
    del array
    arena.reserve(1).abandon()


def test_releasing_under_a_living_view_is_an_error(arena: ShmArena, ranks: list[ShmReader]) -> None:
    handle = _put(arena, b"hello")
    first, second = ranks[0].map(handle), ranks[0].map(handle)
    for view in (first, second):
        with pytest.raises(TransportError) as caught:
            ranks[0].release(handle)
        assert caught.value.code == "views-alive"
        assert bytes(view) == b"hello"
    del view, first, second
    ranks[0].release(handle)  # the collection released it, and it stays so
    with pytest.raises(StaleHandleError):
        ranks[0].map(handle)


def test_a_view_in_a_reference_cycle_releases_when_it_is_collected(
    arena: ShmArena, ranks: list[ShmReader]
) -> None:
    """The collector finalizes the mapping while a memoryview of the same cycle still exports it."""
    handle = _put(arena, bytes(PAGES * PAGE))
    ranks[1].release(handle)
    cycle: list[object] = [memoryview(ranks[0].map(handle))]
    cycle.append(cycle)
    del cycle
    gc.collect()
    with pytest.raises(StaleHandleError):
        ranks[0].map(handle)
    arena.reserve(1).abandon()


def test_closing_a_mapping_releases_its_slot(arena: ShmArena, ranks: list[ShmReader]) -> None:
    handle = _put(arena, b"hello")
    mapping = ranks[0].map(handle)
    view = memoryview(mapping)
    with pytest.raises(BufferError):
        mapping.close()
    view.release()
    mapping.close()
    mapping.close()
    with pytest.raises(StaleHandleError):
        ranks[0].map(handle)
    mapping.make_private()  # as a fork would ask it to


def test_a_rank_may_skip_a_message(arena: ShmArena, ranks: list[ShmReader]) -> None:
    handle = _put(arena, b"hello")
    for rank in ranks:
        rank.release(handle)
        rank.release(handle)  # nothing is left to do
        with pytest.raises(StaleHandleError):
            rank.map(handle)
    assert arena.stats().slots_granted == 0


def test_views_outlive_their_reader(arena: ShmArena, ranks: list[ShmReader]) -> None:
    handle = _put(arena, b"hello")
    view = ranks[0].map(handle)
    ranks[0].close()
    with pytest.raises(TransportError) as caught:
        ranks[0].map(handle)
    assert caught.value.code == "closed"
    ranks[1].close()
    arena.reap()
    assert arena.stats().slots_granted == 1
    with pytest.raises(TransportError) as caught:
        ShmReader.attach(arena.name, rank=0)
    assert caught.value.code == "reader-taken"
    assert bytes(view) == b"hello"
    del view
    arena.reap()
    assert arena.stats().slots_granted == 0
    ShmReader.attach(arena.name, rank=0).close()


def test_views_outlive_the_arena(arena: ShmArena, ranks: list[ShmReader]) -> None:
    handle = _put(arena, b"hello")
    view = ranks[0].map(handle)
    assert ranks[0].producer_alive
    arena.close()
    assert not Path("/dev/shm", arena.name).exists()
    assert not ranks[0].producer_alive
    assert bytes(view) == b"hello"
    assert bytes(ranks[1].map(handle)) == b"hello", "sealed content stays valid for who is attached"
    with pytest.raises(TransportError) as caught:
        ShmReader.attach(arena.name, rank=0)
    assert caught.value.code == "segment-gone"


def test_one_rank_attaches_once(arena: ShmArena, ranks: list[ShmReader]) -> None:
    with pytest.raises(TransportError) as caught:
        ShmReader.attach(arena.name, rank=0)
    assert caught.value.code == "reader-taken"


def test_who_attaches_late_gets_what_waits_and_who_attaches_again_starts_anew(
    arena: ShmArena,
) -> None:
    early = _put(arena, b"early")
    first = ShmReader.attach(arena.name, rank=0)
    assert bytes(first.map(early)) == b"early"
    pending = _put(arena, b"pending")
    first.close()
    away = _put(arena, b"away")
    second = ShmReader.attach(arena.name, rank=0)
    for handle in (early, pending, away):
        with pytest.raises(StaleHandleError):
            second.map(handle)
    after = _put(arena, b"after")
    assert bytes(second.map(after)) == b"after"
    second.close()
    with ShmReader.attach(arena.name, rank=1) as other:
        for handle in (early, pending, away, after):
            other.release(handle)
    arena.reap()
    assert arena.stats().slots_granted == 0


def test_a_full_arena_waits_for_a_release(arena: ShmArena, ranks: list[ShmReader]) -> None:
    handle = _put(arena, bytes(PAGES * PAGE))
    ranks[0].release(handle)
    timer = threading.Timer(0.1, ranks[1].release, [handle])
    timer.start()
    arena.reserve(1, timeout_s=30).abandon()
    timer.join()
    assert arena.stats().waits == 1


def test_a_full_arena_gives_up_at_the_deadline(arena: ShmArena, ranks: list[ShmReader]) -> None:
    _put(arena, bytes(PAGES * PAGE))
    started_s = time.monotonic()
    with pytest.raises(ArenaFullError) as caught:
        arena.reserve(PAGE, timeout_s=0.1)
    assert time.monotonic() - started_s >= 0.1
    assert caught.value.code == "arena-full"
    assert f"{PAGE:,} bytes within 0.1 s, got 0 free of {PAGES * PAGE:,}" in str(caught.value)
    assert caught.value.hint


def test_what_could_never_fit_is_refused_at_once(arena: ShmArena) -> None:
    with pytest.raises(ArenaFullError) as caught:
        arena.reserve(PAGES * PAGE + 1, timeout_s=3600)
    assert caught.value.code == "arena-too-small"


def test_too_many_handles_is_a_full_arena(arena: ShmArena) -> None:
    for _ in range(8):
        _put(arena, b"x")
    with pytest.raises(ArenaFullError) as caught:
        arena.reserve(1)
    assert "0 free of 8 slots" in str(caught.value)


def test_sealing_less_than_was_reserved_gives_the_rest_back(arena: ShmArena) -> None:
    slot = arena.reserve(PAGES * PAGE)
    slot.view[:5] = b"hello"
    handle = slot.seal(5)
    assert handle.nbytes == 5
    assert arena.stats().free_nbytes == (PAGES - 1) * PAGE
    with ShmReader.attach(handle, rank=0) as rank:
        assert bytes(rank.map(handle)) == b"hello"


@pytest.mark.parametrize("nbytes", [0, -1, 6])
def test_sealing_more_or_nothing_is_refused(arena: ShmArena, nbytes: int) -> None:
    with arena.reserve(5) as slot, pytest.raises(TransportError) as caught:
        slot.seal(nbytes)
    assert caught.value.code == "slot-nbytes"


def test_a_slot_is_sealed_once(arena: ShmArena) -> None:
    slot = arena.reserve(5)
    slot.seal()
    for verb in (slot.seal, lambda: slot.view):
        with pytest.raises(TransportError) as caught:
            verb()
        assert caught.value.code == "slot-sealed"
    slot.abandon()
    assert arena.stats().slots_granted == 1


@pytest.mark.parametrize("how", ["abandon", "leave", "forget"])
def test_what_is_not_sealed_is_free_again(arena: ShmArena, how: str) -> None:
    slot = arena.reserve(PAGES * PAGE)
    if how == "abandon":
        slot.abandon()
    elif how == "leave":
        with pytest.raises(KeyError), slot:
            raise KeyError
    else:
        del slot
    arena.reserve(PAGES * PAGE).abandon()


@pytest.mark.parametrize("end", ["abandon", "seal"])
def test_a_view_of_the_producer_keeps_its_slot(
    arena: ShmArena, ranks: list[ShmReader], end: str
) -> None:
    """A tensor that still looks at the slot must never see, or spoil, the next message."""
    slot = arena.reserve(PAGES * PAGE)
    tensor = torch.frombuffer(slot.view[64:], dtype=torch.uint8)
    if end == "abandon":
        slot.abandon()
    else:
        handle = slot.seal(5)
        for rank in ranks:
            rank.release(handle)
    with pytest.raises(ArenaFullError):
        arena.reserve(1)
    tensor += 1
    del tensor
    arena.reserve(PAGES * PAGE).abandon()


def test_content_that_is_there_is_granted_again_without_a_copy(
    arena: ShmArena, ranks: list[ShmReader]
) -> None:
    assert arena.find(b"image") is None
    first = _put(arena, b"hello", identity=b"image")
    ranks[0].release(first)
    second = arena.find(b"image")
    assert second is not None
    assert (second.offset, second.nbytes) == (first.offset, 5)
    assert second.slot != first.slot
    view = ranks[0].map(second)  # rank 0 is done with the first grant, rank 1 is not
    with pytest.raises(StaleHandleError):
        ranks[0].map(first)
    ranks[1].release(second)  # in any order
    assert bytes(ranks[1].map(first)) == b"hello"
    assert bytes(view) == b"hello"
    del view
    stats = arena.stats()
    assert (stats.hits, stats.misses, stats.bytes_saved) == (1, 1, 5)
    assert (stats.slots_granted, stats.cached_nbytes) == (0, 5)


def test_the_cache_gives_way_from_the_least_recently_used(
    arena: ShmArena, ranks: list[ShmReader]
) -> None:
    names = [b"a", b"b", b"c"]
    for name in names:
        handle = _put(arena, name * 5 * PAGE, identity=name)
        for rank in ranks:
            rank.release(handle)
    arena.reap()
    used = arena.find(b"a")
    for rank in ranks:
        rank.release(used)
    arena.reap()
    arena.reserve(5 * PAGE).abandon()
    assert arena.find(b"b") is None
    for name in (b"a", b"c"):
        handle = arena.find(name)
        assert handle is not None
        assert bytes(ranks[0].map(handle)) == name * 5 * PAGE
    assert arena.stats().evictions == 1


def test_content_in_use_is_never_evicted(arena: ShmArena, ranks: list[ShmReader]) -> None:
    handle = _put(arena, b"a" * PAGE * (PAGES - 1), identity=b"a")
    ranks[0].release(handle)
    with pytest.raises(ArenaFullError):
        arena.reserve(2 * PAGE)
    assert bytes(ranks[1].map(handle))[:1] == b"a"


def test_two_puts_of_one_identity_keep_one(arena: ShmArena, ranks: list[ShmReader]) -> None:
    first, second = (_put(arena, b"hello", identity=b"same") for _ in range(2))
    for handle in (first, second):
        for rank in ranks:
            rank.release(handle)
    arena.reap()
    assert arena.stats().cached_nbytes == 5
    assert arena.stats().free_nbytes == (PAGES - 1) * PAGE


def test_an_identity_has_at_most_32_bytes(arena: ShmArena) -> None:
    with arena.reserve(1) as slot, pytest.raises(TransportError) as caught:
        slot.seal(identity=bytes(33))
    assert caught.value.code == "identity"


def test_a_closed_arena_says_so(arena: ShmArena) -> None:
    slot = arena.reserve(1)
    arena.close()
    arena.close()
    for verb in (lambda: arena.reserve(1), arena.stats, arena.reap, lambda: arena.find(b"x")):
        with pytest.raises(TransportError) as caught:
            verb()
        assert caught.value.code == "closed"
    with pytest.raises(TransportError) as caught:
        slot.seal()
    assert caught.value.code == "closed"


def test_an_arena_that_is_forgotten_removes_its_name() -> None:
    name = ShmArena.create(nbytes=PAGE, ranks=1).name
    gc.collect()
    assert not Path("/dev/shm", name).exists()


def test_a_reader_that_is_forgotten_gives_its_rank_back(arena: ShmArena) -> None:
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    rank = ShmReader.attach(arena.name, rank=0)
    handle = _put(arena, b"hello")
    view = memoryview(rank.map(handle))
    del rank
    gc.collect()
    assert bytes(view) == b"hello"
    del view
    gc.collect()
    ShmReader.attach(arena.name, rank=0).close()
    assert len(list(Path("/proc/self/fd").iterdir())) == descriptors


def test_a_machine_without_descriptors_is_our_error_and_leaves_nothing(tmp_path: Path) -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(list(Path("/proc/self/fd").iterdir()))
    with ShmArena.create(nbytes=PAGE, ranks=1) as arena:
        handle = _put(arena, b"hello")
        rank = ShmReader.attach(arena.name, rank=0)
        try:
            for spare in range(12):
                resource.setrlimit(resource.RLIMIT_NOFILE, (used + spare, hard))
                for verb in (
                    lambda: ShmArena.create(
                        nbytes=PAGE, ranks=1, backing="file", directory=tmp_path
                    ).close(),
                    lambda: ShmReader.attach(arena.name, rank=0).close(),
                    lambda: rank.map(handle).close(),
                ):
                    with contextlib.suppress(TransportError):
                        verb()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        rank.close()
        assert list(tmp_path.iterdir()) == []
        assert len(list(Path("/proc/self/fd").iterdir())) <= used + 3


@pytest.mark.parametrize(
    "arguments",
    [
        {"nbytes": 0},
        {"ranks": 0},
        {"ranks": 65},
        {"slots": 0},
        {"backing": "disk"},
        {"backing": "file"},
        {"backing": "memfd", "directory": "/tmp"},
    ],
)
def test_arguments_that_cannot_be(arguments: dict[str, object]) -> None:
    with pytest.raises(TransportError) as caught:
        ShmArena.create(**{"nbytes": PAGE, "ranks": 1, **arguments})
    assert caught.value.code == "arena-argument"


def test_a_directory_or_name_that_cannot_be_used(arena: ShmArena, tmp_path: Path) -> None:
    with pytest.raises(TransportError) as caught:
        ShmArena.create(nbytes=1, ranks=1, backing="file", directory=tmp_path / "none")
    assert caught.value.code == "segment-directory"
    with pytest.raises(TransportError) as caught:
        ShmArena.create(nbytes=1, ranks=1, name=arena.name)
    assert caught.value.code == "segment-exists"
    with pytest.raises(TransportError) as caught:
        ShmArena.create(nbytes=1, ranks=1, name="mmf-../x")
    assert caught.value.code == "segment-name"


def test_a_memfd_has_no_name_and_cannot_be_cut() -> None:
    with ShmArena.create(nbytes=PAGE, ranks=1, backing="memfd") as arena:
        handle = _put(arena, b"hello")
        with ShmReader.attach_fd(arena.fileno(), rank=0) as rank:
            assert bytes(rank.map(handle)) == b"hello"
        with pytest.raises(PermissionError):
            os.ftruncate(arena.fileno(), 0)


def test_the_living_are_listed_and_never_swept(arena: ShmArena, ranks: list[ShmReader]) -> None:
    info = next(info for info in list_segments() if info.name == arena.name)
    assert info.producer_alive
    assert not info.dead
    assert (info.producer_pid, info.ranks, info.ranks_alive) == (os.getpid(), 2, 2)
    assert info.same_boot
    assert info.problem is None
    assert arena.name not in sweep()
    assert Path("/dev/shm", arena.name).exists()


def test_a_file_that_only_has_the_name_is_swept_only_when_nobody_holds_it(tmp_path: Path) -> None:
    """As a producer that died before it wrote the header leaves it."""
    (tmp_path / "mmf-0-1-1-00000000").write_bytes(b"")
    (tmp_path / "unrelated").write_bytes(b"")
    (tmp_path / "mmf-link").symlink_to(tmp_path / "unrelated")
    info = list_segments(tmp_path)
    assert [entry.name for entry in info] == ["mmf-0-1-1-00000000"]
    assert info[0].dead
    assert info[0].problem
    assert sweep(tmp_path) == ["mmf-0-1-1-00000000"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mmf-link", "unrelated"]


def test_10_000_rounds_leave_memory_and_descriptors_flat(
    arena: ShmArena, ranks: list[ShmReader], caplog: pytest.LogCaptureFixture
) -> None:
    def rounds(count: int) -> None:
        for number in range(count):
            content = number.to_bytes(4, "little") * (1 + number % 2000)
            handle = _put(arena, content, identity=number.to_bytes(16, "little"))
            for rank in ranks:
                assert rank.map(handle)[:4] == content[:4]

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE

    rounds(500)
    gc.collect()
    before = resident(), len(list(Path("/proc/self/fd").iterdir())), len(list_segments())
    with caplog.at_level(logging.WARNING):
        rounds(10_000)
    gc.collect()
    after = resident(), len(list(Path("/proc/self/fd").iterdir())), len(list_segments())
    assert after[0] - before[0] < 4 * 2**20
    assert after[1] == before[1]
    assert not caplog.records
    assert arena.stats().slots_granted <= 8


def test_a_rank_that_comes_back_while_a_slot_is_granted_keeps_what_it_maps(
    arena: ShmArena, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Detach, give back and attach again fall between the holders' read and the generation."""
    old = ShmReader.attach(arena.name, rank=0)
    ShmReader.attach(arena.name, rank=1).close()
    gave_back, may_announce = threading.Event(), threading.Event()
    attached: list[ShmReader] = []

    def attach_again() -> None:
        attached.append(ShmReader.attach(arena.name, rank=0))

    again = threading.Thread(target=attach_again)

    def hook(label: str) -> None:
        if label == "seal.record" and not gave_back.is_set():
            old.close()
            again.start()
            assert gave_back.wait(10)
        elif label == "attach.given-back" and threading.current_thread() is again:
            gave_back.set()
            assert may_announce.wait(10)

    monkeypatch.setattr("mmformat.shm.failpoints._hook", hook)
    handle = _put(arena, b"A" * PAGE)
    arena.reap()  # the new rank has the lock, and its word still says "detached"
    may_announce.set()
    again.join(10)
    view = attached[0].map(handle)
    with pytest.raises(ArenaFullError):
        _put(arena, b"B" * (PAGES * PAGE))
    assert bytes(view[:4]) == b"AAAA"
    del view
    attached[0].close()
