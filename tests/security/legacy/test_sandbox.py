"""The sandbox's process can open nothing, ends in time, and leaves nothing behind."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import mmformat as mm
from mmformat.legacy import PickleLimits, convert, convert_all, sandbox
from mmformat.legacy.child import confine
from tests.security.legacy.attacks import text

ROOT = Path(__file__).parents[3]
FORBIDDEN = {
    "open a file": "open('/etc/hostname')",
    "create a file": "os.open('/tmp/mmformat-canary', os.O_CREAT | os.O_WRONLY)",
    "make a socket": "socket.socket()",
    "make a pair of sockets": "socket.socketpair()",
    "start a program": "os.execv('/bin/true', ['true'])",
    "fork": "os.fork()",
    "start a thread": "threading.Thread(target=print).start()",
    "remove a file": "os.unlink('/tmp/nothing')",
    "make shared memory": "os.memfd_create('x')",
    "send a signal": "os.kill(os.getppid(), 0)",
}
GIVEN = {
    "a pipe": "os.pipe()",
    "a directory's names": "os.listdir('/')",
    "the directory": "os.chdir('/')",
    "a new user": "os.setuid(1)",
    "a limit": "resource.setrlimit(resource.RLIMIT_FSIZE, (1, 1))",
}


def confined(action: str) -> subprocess.CompletedProcess[str]:
    script = (
        "import os, socket, threading, resource, sys\n"
        "from mmformat.legacy.child import confine\n"
        "assert confine()\n"
        f"try:\n    {action}\nexcept (OSError, ValueError):\n    os.write(1, b'refused')\n"
        "else:\n    os.write(1, b'done')\n"
        "os._exit(0)\n"
    )
    return subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=ROOT
    )


@pytest.mark.parametrize("name", FORBIDDEN)
def test_a_process_that_reaches_out_is_killed(name: str) -> None:
    """SIGSYS, not an answer."""
    ran = confined(FORBIDDEN[name])
    assert (ran.returncode, ran.stdout) == (-31, "")


@pytest.mark.parametrize("name", GIVEN)
def test_what_is_not_needed_is_refused(name: str) -> None:
    ran = confined(GIVEN[name])
    """A listing opens its folder, which kills; the others get EPERM."""
    killed = (-31, "") if name == "a directory's names" else (0, "refused")
    assert (ran.returncode, ran.stdout) == killed


def test_the_filter_is_really_installed() -> None:
    """The child of a conversion runs under it: the kernel says so."""
    report = convert_all(pickle.dumps({"a": 1})).report
    assert report.isolation == "process+seccomp"
    (child, *_) = sandbox._POOL._idle
    status = Path(f"/proc/{child.process.pid}/status").read_text()
    assert "Seccomp:\t2" in status
    assert "NoNewPrivs:\t1" in status
    limits = Path(f"/proc/{child.process.pid}/limits").read_text()
    for name, value in (("file size", "0"), ("core file size", "0"), ("open files", "16")):
        (line,) = [line for line in limits.splitlines() if line.lower().startswith(f"max {name}")]
        assert line.split()[-3] == value, line
    folder = Path(f"/proc/{child.process.pid}/fd")
    for _ in range(200):  # it closes the source after it has answered
        opened = sorted(str(entry.readlink()) for entry in folder.iterdir())
        if len(opened) == 5:
            break
        time.sleep(0.01)
    assert opened[:3] == ["/dev/null"] * 3
    assert len(opened) == 5, opened
    assert opened[3].startswith("/memfd:mmformat")  # the scratch memory, sealed to its size
    assert opened[4].startswith("socket:")


def test_a_file_that_takes_too_long_ends() -> None:
    data = b"\x80\x02" + b"N0" * 4_000_000 + b"N."
    begin = time.monotonic()
    with pytest.raises(mm.LimitError):
        convert(data, limits=PickleLimits(time_s=1))
    assert time.monotonic() - begin < 30


@pytest.mark.parametrize("isolated", [False, True])
def test_calls_on_much_data_look_at_the_clock(isolated: bool) -> None:
    """Five bytes of pickle encode eight megabytes of text; 20,000 of them would run for minutes."""
    long = "\xe9" * 4_000_000
    encode = text("_codecs") + text("encode") + b"\x93\x94"
    arguments = text(long) + text("latin1") + b"\x86\x94"
    data = b"\x80\x04" + encode + arguments + b"00" + b"h\x00h\x01R0" * 20_000 + b"N."
    begin = time.monotonic()
    with pytest.raises(mm.LimitError, match="longer than 1 s"):
        convert(data, isolated=isolated, limits=PickleLimits(time_s=1))
    assert time.monotonic() - begin < 4


def test_the_kernel_bounds_processor_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its own clock the child ends all the same, and by its processor time alone."""
    monkeypatch.setattr(sandbox, "_GRACE_S", 60.0)
    monkeypatch.setattr(sandbox, "_CPU_GRACE_S", 0)
    boot = sandbox._BOOT.replace(
        "; from mmformat.legacy.child",
        "; from mmformat.legacy.limits import Budget"
        "; Budget.check_time = lambda self, path: None; from mmformat.legacy.child",
    )
    monkeypatch.setattr(sandbox, "_BOOT", boot)
    monkeypatch.setattr(sandbox, "_POOL", sandbox._Pool())
    data = b"\x80\x02" + b"N0" * 50_000_000 + b"N."
    with pytest.raises(mm.LimitError, match="longer than 1 s of processor time"):
        convert(data, limits=PickleLimits(time_s=1, opcodes=2**30))


def test_the_kernel_counts_each_request_for_itself() -> None:
    """A child that has worked for long is not ended by the next small file."""
    data = pickle.dumps({"a": 1})
    for _ in range(3):
        with pytest.raises(mm.LimitError):
            convert(b"\x80\x02" + b"N0" * 4_000_000 + b"N.", limits=PickleLimits(time_s=1))
        assert convert(data, limits=PickleLimits(time_s=1)).request_data == {"a": 1}


def test_a_child_that_hangs_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the machine's own clock fails, the parent's ends it."""
    monkeypatch.setattr(sandbox, "_GRACE_S", 0.2)
    with sandbox._POOL.child() as child:
        os.kill(child.process.pid, 19)  # SIGSTOP: it answers no more
    pid = child.process.pid
    with pytest.raises(mm.LimitError, match="within 1 s"):
        convert(pickle.dumps({"a": 1}), limits=PickleLimits(time_s=1))
    assert child.process.poll() is not None, pid
    assert convert(pickle.dumps({"a": 1})).request_data == {"a": 1}


def test_a_child_that_dies_is_replaced() -> None:
    convert(pickle.dumps({"a": 1}))
    for child in sandbox._POOL._idle:
        child.process.kill()
        child.process.wait()
    assert convert(pickle.dumps({"a": 1})).request_data == {"a": 1}


def test_memory_is_bounded_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream of small opcodes that wants gigabytes gets an error, not the machine's memory."""
    monkeypatch.setattr(sandbox, "_ROOM_NBYTES", 64 * 2**20)
    data = b"\x80\x04](" + b"\x8f" * 3_000_000 + b"e."
    with pytest.raises(mm.LimitError, match="memory"):
        convert(data)
    assert convert(pickle.dumps({"a": 1})).request_data == {"a": 1}


def test_the_result_is_sealed_and_ours(tmp_path: Path) -> None:
    """The tensors outlive file, child and conversion, and may be written to."""
    wanted = {"a": np.arange(100_000, dtype=np.float32), "b": np.ones(3, np.uint8)}
    path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps(wanted))
    made = convert(path).request_data
    path.unlink()
    sandbox._POOL.close()
    made["b"][0] = 7
    assert np.array_equal(made["a"], wanted["a"])
    assert made["b"].tolist() == [7, 1, 1]
    assert made["a"].ctypes.data % 64 == 0


def test_threads_each_have_a_child() -> None:
    datas = [pickle.dumps({"n": n, "x": np.full(1000, n)}) for n in range(60)]
    with ThreadPoolExecutor(4) as threads:
        for n, made in enumerate(threads.map(convert, datas)):
            assert made.request_data["n"] == n
            assert (made.request_data["x"] == n).all()


def test_no_descriptor_is_left_open() -> None:
    convert(pickle.dumps({"x": np.zeros(10)}))
    before = sum(1 for _ in Path("/proc/self/fd").iterdir())
    for _ in range(20):
        convert(pickle.dumps({"x": np.zeros(10)}))
        with pytest.raises(mm.UnsafePickleError):
            convert(b"cos\nsystem\n.")
    assert sum(1 for _ in Path("/proc/self/fd").iterdir()) == before


@pytest.mark.parametrize(
    "make", [lambda path: path / "nothing.pkl", lambda path: path, lambda _: "/dev/zero"]
)
def test_what_is_no_file_is_refused(tmp_path: Path, make: Callable[[Path], object]) -> None:
    for isolated in (False, True):
        with pytest.raises(mm.DecodeError):
            convert(make(tmp_path), isolated=isolated)


def test_this_process_is_not_confined() -> None:
    """Only the child gives its calls up; importing the module does nothing."""
    assert callable(confine)
    assert "Seccomp:\t2" not in Path("/proc/self/status").read_text()
