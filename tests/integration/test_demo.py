"""The demo in real processes: right bits, honest answers, and no leftovers however it ends."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from mmformat.demo import DemoReport
from mmformat.demo.run import STAGES

COMMAND = [sys.executable, "-W", "error", "-m", "mmformat", "demo"]
SHM = Path("/dev/shm")


def _start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*COMMAND, "--tp", "2", "--requests", "2", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _ranks(pid: int) -> list[psutil.Process]:
    with contextlib.suppress(psutil.NoSuchProcess):
        children = psutil.Process(pid).children()
        return [each for each in children if "spawn_main" in " ".join(each.cmdline())]
    return []


def _segments(pid: int) -> list[str]:
    return [path.name for path in SHM.glob("mmf*") if f"-{pid}-" in path.name]


@contextlib.contextmanager
def _running(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    with _start(*arguments) as demo:
        try:
            yield demo
        finally:
            demo.kill()


def _wait_for_ranks(demo: subprocess.Popen[str]) -> list[psutil.Process]:
    deadline_s = time.monotonic() + 60
    while time.monotonic() < deadline_s:
        ranks = _ranks(demo.pid)
        if len(ranks) == 2:
            return ranks
        time.sleep(0.05)
    raise AssertionError("expected two ranks")


@pytest.mark.parametrize(
    "options",
    [
        ["--encoding", "plain"],
        ["--encoding", "dictionary"],
        ["--encoding", "plain", "--compression", "lz4"],
    ],
    ids=["plain", "dictionary", "lz4"],
)
def test_every_bit_arrives_in_every_rank(options: list[str]) -> None:
    with _running("--json", *options) as demo:
        out, err = demo.communicate(timeout=110)
        assert demo.returncode == 0, err
        assert err == ""
        report = json.loads(out)
        assert _segments(demo.pid) == []
    assert report["ok"]
    assert (report["ranks"], report["requests"], report["images"]) == (2, 2, 6)
    assert report["left_in_shm"] == []
    assert report["handle_nbytes"] < 256
    # Six features and the grids of four patched ones; put, put again and pickled; two ranks.
    assert report["tensors_checked"] == report["tensors_identical"] == (6 + 4) * 3 * 2
    shared = report["tensors_inside"] + report["tensors_outside"]
    assert shared == (6 + 4) * 2 * 2
    if options == ["--encoding", "plain"]:
        assert report["tensors_outside"] == 0
        assert report["stages"]["mmformat"]["all"]["copies"] == 1
    else:
        assert report["tensors_outside"] > 0
        assert report["message_nbytes"] < report["tensor_nbytes"]
    for way, left_out in (("mmformat", set()), ("pickle5", {"again"})):
        stages = report["stages"][way]
        assert set(stages) == set(STAGES) - left_out
        for stage in stages.values():
            assert len(stage["samples"]) == stage["n"] == 2


def test_the_table_is_data_and_progress_is_not() -> None:
    with _running() as demo:
        out, err = demo.communicate(timeout=110)
        assert demo.returncode == 0, err
    assert err == ""  # no terminal, no progress
    assert "tensors bit-identical" in out
    assert "left in /dev/shm: nothing" in out
    assert "pickle5 ms" in out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "says"),
    [(signal.SIGKILL, "death by SIGKILL"), (signal.SIGSTOP, "within 10 s")],
    ids=["dies", "hangs"],
)
def test_a_rank_that_is_lost_ends_the_demo(number: signal.Signals, says: str) -> None:
    with _running("--timeout", "10", "--requests", "1000") as demo:
        ranks = _wait_for_ranks(demo)
        ranks[1].send_signal(number)
        out, err = demo.communicate(timeout=100)
        assert demo.returncode == 3
        assert out == ""
        assert err.startswith("error: expected ")
        assert says in err
        assert "Traceback" not in err.partition("hint:")[0]
        assert not any(rank.is_running() for rank in ranks)
        assert _segments(demo.pid) == []


def _wait_for_segment(demo: subprocess.Popen[str]) -> None:
    deadline_s = time.monotonic() + 90
    while not _segments(demo.pid):
        assert demo.poll() is None
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_leaves_nothing(number: signal.Signals) -> None:
    with _running("--requests", "12") as demo:
        _wait_for_segment(demo)
        ranks = _wait_for_ranks(demo)
        demo.send_signal(number)
        out, err = demo.communicate(timeout=60)
        assert demo.returncode == 130
        assert (out, err) == ("", "interrupted\n")
        assert not any(rank.is_running() for rank in ranks)
        assert _segments(demo.pid) == []


def test_ranks_do_not_outlive_a_demo_that_is_killed() -> None:
    with _running("--requests", "12") as demo:
        _wait_for_segment(demo)
        ranks = _wait_for_ranks(demo)
        segments = _segments(demo.pid)
        os.kill(demo.pid, signal.SIGKILL)
        demo.wait()
        _, alive = psutil.wait_procs(ranks, timeout=30)
        # Where nobody reaps orphans they stay as zombies, which hold nothing.
        assert all(each.status() == psutil.STATUS_ZOMBIE for each in alive)
        for name in segments:  # the next arena would sweep it
            (SHM / name).unlink(missing_ok=True)


def test_one_wrong_bit_is_not_ok() -> None:
    report = DemoReport(ranks=1, requests=1, images=3, encoding="plain", compression="none")
    assert not report.is_ok  # nothing checked is nothing shown
    report.tensors_checked = report.tensors_identical = report.tensors_inside = 5
    assert report.is_ok
    report.tensors_outside = 1
    assert not report.is_ok
    report.tensors_outside, report.left_in_shm = 0, ["mmf-0-1-2-3"]
    assert not report.is_ok
    report.left_in_shm, report.tensors_identical = [], 4
    assert not report.is_ok
