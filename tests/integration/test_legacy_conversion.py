"""Many old pickles into message files: resumable, whole or not at all, one bad file apart."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import mmformat as mm
from mmformat.legacy import convert_all
from mmformat.share import conversion as conversion_module
from mmformat.share.comparison import digests
from mmformat.share.conversion import FileResult, convert_files, find_sources
from mmformat.share.journal import JOURNAL

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
from mmformat.share import conversion
real = conversion.write_message
def slow(message, path):
    real(message, path)
    print(path.name, flush=True)
    time.sleep(0.02)
conversion.write_message = slow
conversion.convert_files([sys.argv[1]], sys.argv[2], workers=2, isolated=False)
"""


def test_a_killed_run_is_resumed(sources: Path, tmp_path: Path) -> None:
    """SIGKILL in the middle: every file there is whole, and nothing is lost or doubled."""
    target, control = tmp_path / "new", tmp_path / "control"
    ran = subprocess.Popen(
        [sys.executable, "-c", SLOW, str(sources), str(target)],
        stdout=subprocess.PIPE,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert ran.stdout is not None
    for _ in range(8):
        ran.stdout.readline()
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

    def wrong(message: mm.EncodedMessage, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        mm.encode(mm.MultimodalInputs(request_data={"n": -1})).save(path)

    monkeypatch.setattr(conversion_module, "write_message", wrong)
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

    monkeypatch.setattr(conversion_module, "encode", broken)
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
