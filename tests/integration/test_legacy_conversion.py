"""Many old pickles into message files: resumable, whole or not at all, one bad file apart."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import mmformat as mm
from mmformat.legacy import convert_all
from mmformat.legacy.batch import job as conversion_job
from mmformat.legacy.batch import workers as conversion_crew
from mmformat.legacy.batch.conversion import FileResult, convert_files, find_sources
from mmformat.legacy.batch.job import digests
from mmformat.legacy.batch.journal import JOURNAL

ROOT = Path(__file__).parents[2]
FIXTURES = ROOT / "tests" / "data" / "legacy"


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """Make 30 pickles in two folders, one of them broken and one with three requests."""
    folder = tmp_path / "old"
    for number in range(28):
        path = folder / ("a" if number % 2 else "b") / f"{number:02}.pkl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(pickle.dumps({"n": number, "x": np.full(50, number, np.float32)}))
    (folder / "bad.pkl").write_bytes(b"cos\nsystem\n.")
    (folder / "three.pkl").write_bytes(b"".join(pickle.dumps({"n": n}) for n in range(3)))
    (folder / "notes.txt").write_text("no pickle")
    return folder


def written(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != JOURNAL
    }


@pytest.mark.parametrize("workers", [1, 3])
def test_a_folder(sources: Path, tmp_path: Path, workers: int) -> None:
    target = tmp_path / "new"
    seen: list[tuple[FileResult, int, int]] = []
    summary = convert_files(
        [sources],
        target,
        workers=workers,
        verify=True,
        isolated=False,
        progress=lambda *call: seen.append(call),
    )
    assert (summary.count("converted"), summary.failed, summary.ok) == (29, 1, False)
    assert [done for _, done, _ in seen] == list(range(1, 31))
    names = written(target)
    assert len(names) == 28 + 3
    assert {"a/01.pkl.arrows", "b/00.pkl.arrows", "three.pkl.0002.arrows"} <= set(names)
    for number in range(28):
        made = mm.decode(target / ("a" if number % 2 else "b") / f"{number:02}.pkl.arrows")
        assert made.request_data["n"] == number
        assert (np.asarray(made.request_data["x"]) == number).all()
    (bad,) = [result for result in summary.results if result.status == "failed"]
    assert bad.error is not None
    assert bad.error["code"] == "unsafe-pickle-global"
    assert "os.system" in bad.error["message"]
    told = json.loads(json.dumps(summary.as_dict()))
    assert (told["sources"], told["verified"], told["requests"]) == (30, 29, 31)


def test_a_second_run_does_what_is_left(sources: Path, tmp_path: Path) -> None:
    target = tmp_path / "new"
    convert_files([sources], target, isolated=False)
    before = {path: path.stat().st_mtime_ns for path in target.rglob("*.arrows")}
    (sources / "bad.pkl").write_bytes(pickle.dumps({"n": "mended"}))
    (sources / "a" / "01.pkl").write_bytes(pickle.dumps({"n": "changed"}))
    (target / "b" / "02.pkl.arrows").unlink()
    (sources / "late.pkl").write_bytes(pickle.dumps({"n": "late"}))
    summary = convert_files([sources], target, isolated=False)
    assert (summary.count("converted"), summary.count("done before"), summary.failed) == (4, 27, 0)
    assert mm.decode(target / "a" / "01.pkl.arrows").request_data == {"n": "changed"}
    assert mm.decode(target / "bad.pkl.arrows").request_data == {"n": "mended"}
    same = [path for path, at in before.items() if path.stat().st_mtime_ns == at]
    assert len(same) == 31 - 2
    assert convert_files([sources], target, isolated=False).count("done before") == 31
    assert convert_files([sources], target, isolated=False, again=True).count("converted") == 31


SLOW = """
import sys, time
from mmformat.legacy.batch import conversion
from mmformat.legacy.batch import job as conversion_job, workers as conversion_crew
conversion_crew.PROCESSES_FROM = int(sys.argv[3])
real = conversion_job.write_message
def slow(message, path, **how):
    real(message, path, **how)
    print(path.name, flush=True)
    time.sleep(0.02)
conversion_job.write_message = slow
conversion.convert_files([sys.argv[1]], sys.argv[2], workers=2, isolated=False)
"""


def test_a_killed_run_of_threads_is_resumed(sources: Path, tmp_path: Path) -> None:
    """SIGKILL in the middle: every file there is whole, and nothing is lost or doubled."""
    target, control = tmp_path / "new", tmp_path / "control"
    ran = subprocess.Popen(
        [sys.executable, "-c", SLOW, str(sources), str(target), "1000"],
        stdout=subprocess.PIPE,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert ran.stdout is not None
    for _ in range(8):
        assert ran.stdout.readline(), "it ended before it could be killed"
    ran.send_signal(signal.SIGKILL)
    ran.wait()
    ran.stdout.close()
    for path in target.rglob("*.arrows"):
        mm.decode(path)
    assert len(list(target.rglob("*.arrows"))) < 31
    summary = convert_files([sources], target, isolated=False)
    assert summary.failed == 1
    convert_files([sources], control, isolated=False)
    assert written(target) == written(control)


def processes_of(parent: int) -> list[int]:
    """Return the process and all below it."""
    found = [parent]
    for pid in found:
        for task in Path(f"/proc/{pid}/task").glob("*/children"):
            found += [int(child) for child in task.read_text().split()]
    return found


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_a_killed_run_of_processes_is_resumed(tmp_path: Path) -> None:
    """SIGKILL of the parent ends its workers and their sandboxes; nothing is lost or doubled."""
    folder, target, control = tmp_path / "old", tmp_path / "new", tmp_path / "control"
    folder.mkdir()
    for number in range(600):
        (folder / f"{number:03}.pkl").write_bytes(pickle.dumps({"n": number}))
    script = (
        "import sys\nfrom mmformat.legacy.batch.conversion import convert_files\n"
        "convert_files([sys.argv[1]], sys.argv[2], workers=2,"
        " progress=lambda *call: print(call[1], flush=True))\n"
    )
    ran = subprocess.Popen(
        [sys.executable, "-c", script, str(folder), str(target)], stdout=subprocess.PIPE, cwd=ROOT
    )
    assert ran.stdout is not None
    for line in ran.stdout:
        if int(line) >= 300:
            break
    started = processes_of(ran.pid)
    assert len(started) >= 1 + 2 + 2
    ran.send_signal(signal.SIGKILL)
    ran.wait()
    ran.stdout.close()
    deadline_s = time.monotonic() + 20
    while not all(map(is_gone, started)) and time.monotonic() < deadline_s:
        time.sleep(0.01)
    assert all(map(is_gone, started))
    whole = [path for path in target.rglob("*.arrows") if not path.name.startswith(".")]
    assert 300 <= len(whole) < 600
    for path in whole:
        assert mm.decode(path).request_data == {"n": int(path.name[:3])}
    summary = convert_files([folder], target, workers=2, verify=True)
    assert summary.ok
    assert summary.count("converted") + summary.count("done before") == 600
    lines = [json.loads(line) for line in (target / JOURNAL).read_text().splitlines()]
    assert len({line["key"]["source"] for line in lines}) == len(lines) == 600
    convert_files([folder], control, isolated=False)
    assert written(target) == written(control)


def test_processes_do_what_threads_do(
    sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = convert_files([sources], tmp_path / "threads", workers=2, verify=True)
    monkeypatch.setattr(conversion_crew, "PROCESSES_FROM", 1)
    other = convert_files([sources], tmp_path / "processes", workers=2, verify=True)
    assert written(tmp_path / "threads") == written(tmp_path / "processes")
    for first, second in zip(one.results, other.results, strict=True):
        assert (first.status, first.error, first.report, first.requests, first.verified) == (
            second.status, second.error, second.report, second.requests, second.verified,
        )  # fmt: skip


KILLER = """
import os, sys
from mmformat.legacy.batch import job as conversion_job
from mmformat.legacy.batch import workers as conversion_crew
real = conversion_job.Job.run
def run(job):
    if job.source.name == "03.pkl":
        os.kill(os.getpid(), 9)
    if job.source.name == "05.pkl" and not os.path.exists(sys.argv[4]):
        open(sys.argv[4], "w").close()
        os.kill(os.getpid(), 9)
    return real(job)
conversion_job.Job.run = run
conversion_crew.work(int(sys.argv[1]), int(sys.argv[2]))
"""


def test_a_file_that_ends_its_worker_takes_no_other_with_it(
    sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is tried once more by itself; what only met a bad moment is converted then."""
    boot = (
        "import json,sys; sys.path[:]=json.loads(sys.argv[3])\n"
        f"sys.argv.append({str(tmp_path / 'once')!r})\n{KILLER}"
    )
    monkeypatch.setattr(conversion_crew, "PROCESSES_FROM", 1)
    monkeypatch.setattr(conversion_crew, "_BOOT", boot)
    summary = convert_files([sources / "a"], tmp_path / "new", workers=2, isolated=False)
    (bad,) = [result for result in summary.results if result.error]
    assert Path(bad.source).name == "03.pkl"
    assert bad.error is not None
    assert bad.error["code"] == "worker"
    assert summary.count("converted") == 13
    assert (tmp_path / "new" / "05.pkl.arrows").exists()


def test_a_torn_journal_is_read_as_far_as_it_goes(sources: Path, tmp_path: Path) -> None:
    target = tmp_path / "new"
    convert_files([sources], target, isolated=False)
    journal = target / JOURNAL
    text = journal.read_text()
    journal.write_text(text[: len(text) // 2] + "\x00")
    summary = convert_files([sources], target, isolated=False)
    assert summary.count("done before") + summary.count("converted") == 29
    assert summary.count("done before") in range(10, 20)
    assert convert_files([sources], target, isolated=False).count("done before") == 29


def test_two_runs_cannot_write_to_one_folder(sources: Path, tmp_path: Path) -> None:
    target = tmp_path / "new"

    def second(*_: object) -> None:
        with pytest.raises(mm.TransportError, match="no other run"):
            convert_files([sources], target, isolated=False)

    convert_files([sources / "three.pkl"], target, isolated=False, progress=second)


def test_a_dry_run_writes_nothing(sources: Path, tmp_path: Path) -> None:
    target = tmp_path / "new"
    summary = convert_files([sources], target, isolated=False, dry_run=True)
    assert (summary.count("convertible"), summary.failed) == (29, 1)
    assert not target.exists()


def test_one_file_into_one_file(sources: Path, tmp_path: Path) -> None:
    target = tmp_path / "one.arrows"
    summary = convert_files([sources / "a" / "01.pkl"], target, isolated=False)
    assert summary.results[0].outputs == [str(target)]
    assert mm.decode(target).request_data["n"] == 1
    with pytest.raises(mm.ModelError):
        convert_files([sources], target, isolated=False)


def test_globs_and_doubles(sources: Path) -> None:
    found = [name for _, name in find_sources([str(sources / "a" / "*.pkl"), sources / "a"])]
    assert len(found) == len(set(found)) == 14
    assert "notes.txt" in [name for _, name in find_sources([sources / "notes.txt"])]


def test_two_sources_of_one_name_are_refused(sources: Path, tmp_path: Path) -> None:
    (sources / "b" / "01.pkl").write_bytes(pickle.dumps({}))
    with pytest.raises(mm.ModelError, match="a name for each source"):
        convert_files([sources / "a", sources / "b"], tmp_path / "new", isolated=False)


def test_nothing_to_do_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(mm.ModelError, match="expected files"):
        convert_files([tmp_path / "*.pkl"], tmp_path / "new")


def test_a_missing_file_is_a_failure_of_its_own(sources: Path, tmp_path: Path) -> None:
    summary = convert_files(
        [sources / "nothing.pkl", sources / "a" / "01.pkl"], tmp_path / "new", isolated=False
    )
    assert [result.status for result in summary.results] == ["failed", "converted"]


def test_verify_finds_what_was_written_wrongly(
    sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A message of other inputs is found, removed, and not noted as done."""

    def wrong(message: mm.EncodedMessage, path: Path, *, replaces: bool) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        mm.encode(mm.MultimodalInputs(request_data={"n": -1})).save(path)

    monkeypatch.setattr(conversion_job, "write_message", wrong)
    summary = convert_files([sources / "a"], tmp_path / "new", isolated=False, verify=True)
    assert summary.failed == 14
    assert {result.error["code"] for result in summary.results if result.error} == {"integrity"}
    assert not list((tmp_path / "new").rglob("*.arrows"))
    monkeypatch.undo()
    assert convert_files([sources / "a"], tmp_path / "new", isolated=False).ok


def test_a_bug_is_a_failure_with_its_name(
    sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("no")

    monkeypatch.setattr(conversion_job, "encode", broken)
    summary = convert_files([sources / "a"], tmp_path / "new", isolated=False)
    assert summary.failed == 14
    error = summary.results[0].error
    assert error == {"code": "unexpected", "message": "ZeroDivisionError: no", "hint": None}


def test_the_fixtures_with_the_sandbox(tmp_path: Path) -> None:
    """Real files, two workers, verified: all but the one whose tensor is not in it."""
    summary = convert_files(
        [FIXTURES], tmp_path / "new", workers=2, verify=True, sglang_version="0.5.12"
    )
    failed = [Path(result.source).name for result in summary.results if result.error]
    assert failed == ["shm_pointer_dangling.p4.pkl"]
    assert summary.as_dict()["verified"] == 26 + 30


def test_digests_see_dtype_shape_and_place() -> None:
    one = mm.MultimodalInputs(request_data={"x": np.zeros((2, 3), np.float32)})
    for other in (np.zeros((3, 2), np.float32), np.zeros((2, 3), np.int32), np.ones((2, 3), "f4")):
        assert digests(one) != digests(mm.MultimodalInputs(request_data={"x": other}))
    assert digests(one) == digests(
        mm.MultimodalInputs(request_data={"x": np.zeros((2, 3), np.float32)})
    )
    assert digests(one) != digests(mm.MultimodalInputs(request_data={"y": np.zeros((2, 3), "f4")}))


def test_a_message_is_its_owner_s_alone(tmp_path: Path) -> None:
    path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps({"n": 1}))
    (result,) = convert_files([path], tmp_path / "new", isolated=False).results
    assert Path(result.outputs[0]).stat().st_mode & 0o777 == 0o600
    assert convert_all(path, isolated=False).inputs[0].request_data == {"n": 1}
