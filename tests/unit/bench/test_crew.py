"""A crew ends every process that it started, and notices the ones that end by themselves."""

from __future__ import annotations

import os
import signal
import stat
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from mmformat.bench.crew import Crew
from mmformat.errors import TransportError
from tests.unit.bench import crew_members


def _start(crew: Crew, target: Callable[[Connection], None]) -> tuple[int, Connection]:
    ours, theirs = crew.pipe()
    crew.start("rank 0", target, theirs)
    assert ours.poll(60)
    pid = ours.recv()
    assert pid in crew.pids
    return pid, ours


def _is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def _checked(crew: Crew) -> TransportError:
    deadline_s = time.monotonic() + 60
    while time.monotonic() < deadline_s:
        try:
            crew.check()
        except TransportError as error:
            return error
        time.sleep(0.01)
    raise AssertionError("the crew did not notice")


@pytest.mark.parametrize("target", [crew_members.wait, crew_members.ignore_signals])
def test_an_error_ends_every_member(target: Callable[[Connection], None]) -> None:
    with pytest.raises(ZeroDivisionError), Crew() as crew:
        pid, _ = _start(crew, target)
        crew.check()
        folder = Path(crew.address("x").removeprefix("ipc://")).parent
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        raise ZeroDivisionError
    assert _is_gone(pid)
    assert not folder.exists()


def test_a_stopped_member_is_ended_too() -> None:
    with pytest.raises(ZeroDivisionError), Crew() as crew:
        pid, _ = _start(crew, crew_members.wait)
        os.kill(pid, signal.SIGSTOP)
        raise ZeroDivisionError
    assert _is_gone(pid)


def test_a_member_that_raises_is_quoted() -> None:
    with Crew() as crew:
        _start(crew, crew_members.fail)
        error = _checked(crew)
    assert error.code == "rank-died"
    assert "rank 0" in str(error)
    assert "ValueError: cannot go on" in str(error)


def test_a_member_that_is_killed_is_named() -> None:
    with Crew() as crew:
        _start(crew, crew_members.vanish)
        assert "SIGKILL" in str(_checked(crew))


def test_members_that_end_in_time_are_not_killed() -> None:
    with Crew() as crew:
        pid, pipe = _start(crew, crew_members.obey)
        pipe.send("end")
    assert _is_gone(pid)


def test_a_terminated_starter_unwinds() -> None:
    with pytest.raises(KeyboardInterrupt), Crew() as crew:
        pid, _ = _start(crew, crew_members.wait)
        os.kill(os.getpid(), signal.SIGTERM)
    assert _is_gone(pid)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
