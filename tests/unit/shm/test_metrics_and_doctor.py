"""What an arena tells: prometheus, the log, the doctor and `mmformat shm`."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import prometheus_client
import pytest

from mmformat.cli.front import main
from mmformat.errors import ArenaFullError, TransportError
from mmformat.shm import ShmArena, ShmReader
from mmformat.shm import create as create_module
from mmformat.shm import doctor as doctor_module
from mmformat.shm.cgroup import memory_limit_nbytes
from mmformat.shm.doctor import diagnose, needed_nbytes
from mmformat.shm.layout import PAGE


@pytest.fixture
def registry() -> Iterator[prometheus_client.CollectorRegistry]:
    yield prometheus_client.CollectorRegistry()


def _work(arena: ShmArena, registry: object = None) -> None:
    with ShmReader.attach(arena.name, rank=0, registry=registry) as rank:
        assert arena.find(b"a") is None
        with arena.reserve(PAGE) as slot:
            first = slot.seal(identity=b"a")
        second = arena.find(b"a")
        assert second is not None
        for handle in (first, second):
            del handle
        bytes(rank.map(first))
        bytes(rank.map(second))


def test_prometheus_sees_what_the_arena_did(
    registry: prometheus_client.CollectorRegistry,
) -> None:
    with ShmArena.create(nbytes=8 * PAGE, ranks=1, registry=registry) as arena:
        _work(arena, registry)
        label = {"arena": arena.name}
        sample = registry.get_sample_value
        assert sample("mmformat_arena_nbytes", label) == 8 * PAGE
        assert sample("mmformat_arena_free_nbytes", label) == 7 * PAGE
        assert sample("mmformat_arena_cached_nbytes", label) == PAGE
        assert sample("mmformat_arena_slots_granted", label) == 0
        assert sample("mmformat_arena_hits_total", label) == 1
        assert sample("mmformat_arena_misses_total", label) == 1
        assert sample("mmformat_arena_bytes_saved_total", label) == PAGE
        assert sample("mmformat_arena_reclaimed_total", label) == 0
        assert sample("mmformat_arena_put_seconds_count") == 1
        assert sample("mmformat_arena_get_seconds_count") == 2
        assert sample("mmformat_arena_wait_seconds_count") == 0


def test_arenas_of_one_registry_share_the_families(
    registry: prometheus_client.CollectorRegistry,
) -> None:
    with (
        ShmArena.create(nbytes=PAGE, ranks=1, registry=registry) as first,
        ShmArena.create(nbytes=PAGE, ranks=1, registry=registry) as second,
    ):
        text = prometheus_client.generate_latest(registry).decode()
        assert text.count("# TYPE mmformat_arena_nbytes gauge") == 1
        for arena in (first, second):
            assert f'mmformat_arena_nbytes{{arena="{arena.name}"}}' in text
    assert "mmf-" not in prometheus_client.generate_latest(registry).decode()


def test_nobody_who_injects_nothing_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "prometheus_client", None)
    with ShmArena.create(nbytes=8 * PAGE, ranks=1) as arena:
        _work(arena)


def test_one_line_is_logged_for_each_reclaimed_slot(caplog: pytest.LogCaptureFixture) -> None:
    with ShmArena.create(nbytes=8 * PAGE, ranks=1) as arena:
        rank = ShmReader.attach(arena.name, rank=0)
        handles = [arena.reserve(100).seal() for _ in range(2)]
        rank.release(handles[0])
        third = arena.reserve(200).seal()
        rank._claims.disown()  # as SIGKILL would: the lock goes, nothing is written
        with caplog.at_level(logging.WARNING, "mmformat.arena"):
            assert arena.reap() == 2
        assert [record.getMessage() for record in caplog.records] == [
            f"arena {arena.name}: reclaimed slot {handle.slot} generation {handle.generation} "
            f"({handle.nbytes} bytes): rank 0 died"
            for handle in (handles[1], third)
        ]


def test_the_doctor_counts_pages_headroom_and_tables(tmp_path: Path) -> None:
    assert needed_nbytes(requests=4, request_nbytes=1) == 5 * PAGE
    found = diagnose(tp=4, requests=4, request_nbytes=1, directory=tmp_path)
    assert found.is_enough
    with ShmArena.create(
        nbytes=found.arena_nbytes, ranks=4, backing="file", directory=tmp_path
    ) as arena:
        assert (tmp_path / arena.name).stat().st_size == found.segment_nbytes


@pytest.mark.parametrize(
    ("contained", "remedy"),
    [(True, "docker run --shm-size={}g"), (False, "mount -o remount,size={}G /dev/shm")],
)
def test_the_doctor_says_what_to_change(
    monkeypatch: pytest.MonkeyPatch, *, contained: bool, remedy: str
) -> None:
    monkeypatch.setattr(doctor_module, "in_container", lambda: contained)
    monkeypatch.setattr(doctor_module, "memory_nbytes", lambda: 2**60)
    found = diagnose(tp=4, requests=10**6, request_nbytes=10**9)
    assert not found.is_enough
    assert remedy.format(-(-found.segment_nbytes // 2**30)) in found.advice[0]
    assert ("shm-size" in found.advice[0]) == contained


def test_the_doctor_proposes_nothing_that_the_machine_cannot_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(doctor_module, "memory_nbytes", lambda: 2**30)
    found = diagnose(tp=4, requests=10**6, request_nbytes=10**9)
    assert "1,073,741,824 bytes of memory" in found.advice[0]
    assert "size=" not in found.advice[0]
    # Nor for a directory that is no tmpfs of a container's.
    found = diagnose(tp=4, requests=10**6, request_nbytes=10**9, directory=tmp_path)
    assert found.advice[0] == f"make {tmp_path} larger or choose another directory"


def test_the_doctor_knows_the_containers_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_module, "memory_limit_nbytes", lambda: 1_000_000)
    found = diagnose(tp=1, requests=1, request_nbytes=2_000_000)
    assert found.memory_limit_nbytes == 1_000_000
    assert "memory limit" in found.advice[-1]


def test_an_arena_over_the_containers_limit_is_refused_before_it_is_killed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(create_module, "memory_limit_nbytes", lambda: 2**20)
    for backing in ("shm", "memfd"):
        with pytest.raises(ArenaFullError) as caught:
            ShmArena.create(nbytes=2**20, ranks=1, backing=backing)
        assert "memory limit, got 1,048,576" in str(caught.value)
        assert "resources.limits.memory" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("groups", "files", "limit"),
    [
        ("0::/\n", {"memory.max": "1000"}, 1000),
        ("0::/\n", {"memory.max": "max"}, None),
        ("0::/a/b\n", {"a/memory.max": "7", "a/b/memory.max": "9", "memory.max": "max"}, 7),
        ("0::/not/there\n", {"memory.max": "5"}, 5),
        ("4:cpu,memory:/a\n0::/\n", {"memory/a/memory.limit_in_bytes": "6"}, 6),
        ("4:memory:/a\n", {"memory/a/memory.limit_in_bytes": str(2**63 - 4096)}, None),
        ("3:cpuset:/\n", {}, None),
    ],
)
def test_the_tightest_limit_counts(
    tmp_path: Path, groups: str, files: dict[str, str], limit: int | None
) -> None:
    cgroups = tmp_path / "cgroup"
    cgroups.write_text(groups)
    for name, text in files.items():
        path = tmp_path / "fs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    assert memory_limit_nbytes(cgroups=cgroups, mount=tmp_path / "fs") == limit


@pytest.mark.parametrize("numbers", [(0, 1, 1), (65, 1, 1), (1, 0, 1), (1, 1, 0)])
def test_the_doctor_refuses_numbers_that_cannot_be(numbers: tuple[int, int, int]) -> None:
    with pytest.raises(TransportError):
        diagnose(tp=numbers[0], requests=numbers[1], request_nbytes=numbers[2])


def test_the_command_lists_the_living_and_removes_the_dead(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--directory", str(tmp_path), "--json"]
    with ShmArena.create(nbytes=PAGE, ranks=2, backing="file", directory=tmp_path) as arena:
        (tmp_path / "mmf-0-1-1-dead").write_bytes(bytes(100))
        assert main(["shm", "list", *where]) == 0
        answer = json.loads(capsys.readouterr().out)
        assert sorted(answer) == ["arenas", "directory"]
        assert answer["directory"] == str(tmp_path)
        listed = {info["name"]: info for info in answer["arenas"]}
        assert listed[arena.name]["producer_alive"]
        assert not listed[arena.name]["dead"]
        assert listed["mmf-0-1-1-dead"]["dead"]
        assert main(["shm", "list", *where[:2]]) == 0
        table = capsys.readouterr().out
        assert "alive" in table
        assert "dead" in table
        assert main(["shm", "gc", *where]) == 0
        answer = {"directory": str(tmp_path), "removed": ["mmf-0-1-1-dead"]}
        assert json.loads(capsys.readouterr().out) == answer
        assert [path.name for path in tmp_path.iterdir()] == [arena.name]


def test_the_command_answers_no_with_its_exit_status(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--directory", str(tmp_path)]
    assert main(["shm", "doctor", "--requests", "1", "--request-size", "100kB", *where]) == 0
    assert "mm.Arena.create(nbytes=" in capsys.readouterr().out
    assert main(["shm", "doctor", "--request-size", "1000TB", "--json", *where]) == 1
    assert json.loads(capsys.readouterr().out)["advice"]
    assert main(["shm", "list", "--directory", str(tmp_path / "none")]) == 3
    assert "error: expected a directory" in capsys.readouterr().err


@pytest.mark.parametrize(
    "options",
    [
        ("--tp", "0"),
        ("--tp", "65"),
        ("--tp", "two"),
        ("--requests", "0"),
        ("--request-size", "0"),
        ("--request-size", "nan"),
        ("--request-size", "inf"),
        ("--request-size", "-1"),
    ],
)
def test_numbers_that_cannot_be_are_wrong_usage(
    options: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["shm", "doctor", *options]) == 2
    error = capsys.readouterr().err
    assert f"argument {options[0]}" in error
    assert "hint: mmformat shm doctor --help" in error
