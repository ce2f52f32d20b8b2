"""SIGKILL at every labelled step of the protocol, and what the others see; real processes."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mmformat.errors import MMFormatError, TransportError
from mmformat.shm import ShmArena, ShmReader, list_segments, sweep
from mmformat.shm.failpoints import STEPS
from mmformat.shm.layout import PAGE
from tests.integration.arena_processes import DeadError, Role, producer, rank

PAGES = 32
CONTENT = bytes(range(256)) * 40  # three pages


class Cast:
    """Start roles, and end them all."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.roles: list[Role] = []

    def start(self, target: object) -> Role:
        role = Role(target, self.directory)
        self.roles.append(role)
        return role

    def ok(self, role: Role, *order: object) -> object:
        state, answer = role.ask(*order)
        assert state == "ok", answer
        return answer

    def segments(self) -> list[str]:
        return sorted(path.name for path in self.directory.glob("mmf-*"))


@pytest.fixture
def cast(tmp_path: Path) -> Iterator[Cast]:
    cast = Cast(tmp_path)
    yield cast
    for role in cast.roles:
        role.end()
    sweep(tmp_path)
    assert cast.segments() == []


def _full_house(cast: Cast) -> tuple[Role, Role, Role, str]:
    maker, victim, witness = cast.start(producer), cast.start(rank), cast.start(rank)
    name = cast.ok(maker, "create", PAGES * PAGE, 2)
    return maker, victim, witness, str(name)


def _assert_room_for_all(cast: Cast, maker: Role, witness: Role) -> None:
    """Everything was given back, and the witness still gets what is put."""
    content = os.urandom(PAGES * PAGE)
    handle = cast.ok(maker, "put", content)
    assert cast.ok(witness, "get", handle) == content
    cast.ok(witness, "drop")


READER_DEATHS = [label for label in STEPS["reader"] if not label.startswith("detach")]


@pytest.mark.parametrize("label", READER_DEATHS)
def test_a_reader_killed_at_a_step_holds_nothing(cast: Cast, label: str) -> None:
    """Within a second of its death its slots are free; the other rank notices nothing."""
    maker, victim, witness, name = _full_house(cast)
    cast.ok(witness, "attach", name, 1)
    if label == "attach.given-back":
        cast.ok(victim, "attach", name, 0)
        victim.kill()
        victim = cast.start(rank)
    handle = cast.ok(maker, "put", CONTENT)
    assert cast.ok(witness, "get", handle) == CONTENT
    cast.ok(victim, "die_at", label)
    with pytest.raises(DeadError):
        cast.ok(victim, "attach", name, 0)
        cast.ok(victim, "get", handle)
        cast.ok(victim, "drop")
    died_s = time.monotonic()
    assert cast.ok(witness, "look", 0) == CONTENT
    cast.ok(witness, "drop")
    if label in ("attach.opened", "attach.locked"):
        # It never said that it was there, so the arena still waits for rank 0 to come.
        assert cast.ok(maker, "stats")[0] == 1
        successor = cast.start(rank)
        cast.ok(successor, "attach", name, 0)
        assert cast.ok(successor, "get", handle) == CONTENT
        successor.kill()
    _assert_room_for_all(cast, maker, witness)
    if label not in ("attach.opened", "attach.locked"):
        assert time.monotonic() - died_s < 10  # a bound on hangs; the figures are in docs/arena.md
    cast.ok(maker, "close")


def test_a_reader_killed_with_ten_slots_gives_back_ten(cast: Cast) -> None:
    maker, victim, witness, name = _full_house(cast)
    cast.ok(victim, "attach", name, 0)
    cast.ok(witness, "attach", name, 1)
    for number in range(10):
        handle = cast.ok(maker, "put", bytes([number]) * 100)
        cast.ok(victim, "get", handle)
        cast.ok(witness, "release", handle)
    assert cast.ok(maker, "stats")[:3] == (10, 2, 0)
    victim.kill()
    assert cast.ok(maker, "reap") == 10
    assert cast.ok(maker, "stats")[:3] == (0, 1, 10)
    _assert_room_for_all(cast, maker, witness)
    cast.ok(maker, "close")


def test_a_reader_that_restarts_starts_anew_whether_its_death_was_seen_or_not(cast: Cast) -> None:
    maker, victim, witness, name = _full_house(cast)
    cast.ok(witness, "attach", name, 1)
    for seen in (True, False):
        cast.ok(victim, "attach", name, 0)
        mapped = cast.ok(maker, "put", CONTENT)
        unseen = cast.ok(maker, "put", CONTENT)
        assert cast.ok(victim, "get", mapped) == CONTENT
        victim.kill()
        if seen:
            assert cast.ok(maker, "reap") == 2
        victim = cast.start(rank)
        cast.ok(victim, "attach", name, 0)
        for handle in (mapped, unseen):
            assert victim.ask("get", handle)[0] == "stale-handle"
            cast.ok(witness, "release", handle)
        fresh = cast.ok(maker, "put", CONTENT)
        assert cast.ok(victim, "get", fresh) == CONTENT
        cast.ok(victim, "drop")
        cast.ok(witness, "release", fresh)
        assert cast.ok(maker, "stats")[0] == 0
        cast.ok(victim, "close")
    cast.ok(maker, "close")


def test_a_stopped_reader_is_slow_and_not_dead(cast: Cast) -> None:
    """SIGSTOP: its lock is held, so its slot is waited for; it finds its bytes as they were."""
    maker, victim, witness, name = _full_house(cast)
    cast.ok(victim, "attach", name, 0)
    cast.ok(witness, "attach", name, 1)
    handle = cast.ok(maker, "put", CONTENT)
    cast.ok(victim, "get", handle)
    cast.ok(witness, "release", handle)
    os.kill(victim.process.pid, 19)
    try:
        assert cast.ok(maker, "stats")[:3] == (1, 2, 0)
        assert maker.ask("put", bytes(PAGES * PAGE), b"", 0.3)[0] == "arena-full"
    finally:
        os.kill(victim.process.pid, 18)
    assert cast.ok(victim, "look", 0) == CONTENT
    cast.ok(victim, "drop")
    cast.ok(maker, "put", bytes(PAGES * PAGE))
    cast.ok(maker, "close")


CREATION = [label for label in STEPS["producer"] if label.startswith("create")]


@pytest.mark.parametrize("label", CREATION)
def test_a_producer_killed_while_creating_leaves_what_the_next_start_removes(
    cast: Cast, label: str
) -> None:
    maker = cast.start(producer)
    cast.ok(maker, "die_at", label)
    with pytest.raises(DeadError):
        cast.ok(maker, "create", PAGES * PAGE, 2)
    (left,) = cast.segments()
    info = list_segments(cast.directory)
    assert [entry.name for entry in info if entry.dead] == [left]
    with pytest.raises(TransportError) as caught:
        ShmReader.attach(left, rank=0, directory=cast.directory)
    expected = "producer-gone" if label == "create.ready" else "segment-creating"
    assert caught.value.code == expected
    with ShmArena.create(nbytes=PAGE, ranks=1, backing="file", directory=cast.directory) as arena:
        assert cast.segments() == [arena.name]


AT_WORK = ["reserve.allocated", "write.half", "seal.record", "seal.sealed", "reuse.freed"]


@pytest.mark.parametrize("label", AT_WORK)
def test_a_producer_killed_at_work_leaves_valid_data_and_a_clear_error(
    cast: Cast, label: str
) -> None:
    maker, reader, late, name = _full_house(cast)
    cast.ok(reader, "attach", name, 0)
    held = cast.ok(maker, "put", CONTENT)
    waiting = cast.ok(maker, "put", CONTENT[::-1])
    assert cast.ok(reader, "get", held) == CONTENT
    if label == "reuse.freed":
        done = cast.ok(maker, "put", b"done")
        cast.ok(reader, "release", done)
        cast.ok(late, "attach", name, 1)
        cast.ok(late, "release", done)
        cast.ok(late, "close")
    cast.ok(maker, "die_at", label)
    with pytest.raises(DeadError):
        cast.ok(maker, "put", b"x" * 5 * PAGE)
    assert cast.ok(reader, "producer_alive") is False
    assert cast.ok(reader, "look", 0) == CONTENT
    assert cast.ok(reader, "get", waiting) == CONTENT[::-1]
    assert late.ask("attach", name, 1)[0] == "producer-gone"
    # Nobody removes what a living reader holds ...
    assert sweep(cast.directory) == []
    assert cast.ok(reader, "look", 1) == CONTENT[::-1]
    reader.kill()
    # ... and the next start removes it when it is gone.
    successor = cast.start(producer)
    fresh = cast.ok(successor, "create", PAGES * PAGE, 2)
    assert cast.segments() == [fresh]
    cast.ok(successor, "close")


@pytest.mark.parametrize("label", ["close.closed", "close.unlinked"])
def test_a_producer_killed_while_closing(cast: Cast, label: str) -> None:
    maker, reader, _, name = _full_house(cast)
    cast.ok(reader, "attach", name, 0)
    handle = cast.ok(maker, "put", CONTENT)
    cast.ok(maker, "die_at", label)
    with pytest.raises(DeadError):
        cast.ok(maker, "close")
    assert cast.ok(reader, "get", handle) == CONTENT
    assert cast.segments() == ([name] if label == "close.closed" else [])
    reader.kill()
    assert sweep(cast.directory) == ([name] if label == "close.closed" else [])


def test_a_reader_killed_after_detaching(cast: Cast) -> None:
    maker, victim, witness, name = _full_house(cast)
    cast.ok(victim, "attach", name, 0)
    cast.ok(witness, "attach", name, 1)
    handle = cast.ok(maker, "put", CONTENT)
    cast.ok(witness, "release", handle)
    cast.ok(victim, "die_at", "detach.detached")
    with pytest.raises(DeadError):
        cast.ok(victim, "close")
    assert cast.ok(maker, "reap") == 0, "it gave its slots back before it died"
    _assert_room_for_all(cast, maker, witness)
    cast.ok(maker, "close")


def test_every_label_is_killed_at() -> None:
    """A new step needs a row in the table and a death in these tests."""
    tested = {*READER_DEATHS, *CREATION, *AT_WORK, "close.closed", "close.unlinked"}
    tested |= {"detach.detached"}
    labels = {label for role in STEPS.values() for label in role}
    assert tested - {"write.half"} == labels
    text = (Path(__file__).parents[2] / "docs" / "arena.md").read_text()
    assert [label for label in sorted(tested) if f"`{label}`" not in text] == []


def test_a_recycled_pid_does_not_bring_a_segment_back_to_life(cast: Cast) -> None:
    """The name says our own living pid and start time; the lock says that nobody has it."""
    maker = cast.start(producer)
    name = str(cast.ok(maker, "create", PAGE, 1))
    maker.kill()
    start = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]
    alias = f"mmf-{os.geteuid()}-{os.getpid()}-{start}-00000000"
    (cast.directory / name).rename(cast.directory / alias)
    assert sweep(cast.directory) == [alias]


def test_errors_that_children_meet_are_ours(cast: Cast) -> None:
    maker, reader, _, name = _full_house(cast)
    assert reader.ask("attach", "mmf-none", 0)[0] == "segment-gone"
    assert reader.ask("attach", name, 9)[0] == "reader"
    assert issubclass(TransportError, MMFormatError)
    cast.ok(maker, "close")
