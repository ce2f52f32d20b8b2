"""`mmformat convert` as its user sees it: real pickles, real folders, exit statuses."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import mmformat as mm

LEGACY = Path(__file__).parents[2] / "data" / "legacy"


def convert(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mmformat", "convert", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    sources = tmp_path / "old"
    sources.mkdir()
    values = {"pixel_values": np.arange(12, dtype=np.float32).reshape(3, 4)}
    (sources / "good.pkl").write_bytes(pickle.dumps(values, protocol=4))
    return sources


def test_a_folder_becomes_messages_that_decode_to_the_same(folder: Path, tmp_path: Path) -> None:
    run = convert(folder, "-o", tmp_path / "new", "--verify", "--json")
    assert run.returncode == 0, run.stderr
    summary = json.loads(run.stdout)
    assert (summary["converted"], summary["verified"], summary["failed"]) == (1, 1, 0)
    out = mm.decode(tmp_path / "new" / "good.pkl.arrows")
    assert out.request_data["pixel_values"].tolist() == np.arange(12.0).reshape(3, 4).tolist()


def test_a_bad_file_stops_no_other_and_ends_as_1(folder: Path, tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    (folder / "attack.pkl").write_bytes(b"cos\nsystem\n(V" + f"touch {marker}".encode() + b"\ntR.")
    run = convert(folder, "-o", tmp_path / "new")
    assert run.returncode == 1
    assert "attack.pkl" in run.stderr and "os.system" in run.stderr
    assert not marker.exists()
    assert (tmp_path / "new" / "good.pkl.arrows").exists()


def test_a_second_run_does_only_what_is_left(folder: Path, tmp_path: Path) -> None:
    assert convert(folder, "-o", tmp_path / "new").returncode == 0
    (folder / "later.pkl").write_bytes((folder / "good.pkl").read_bytes())
    summary = json.loads(convert(folder, "-o", tmp_path / "new", "--json").stdout)
    assert (summary["converted"], summary["done_before"]) == (1, 1)


def test_a_dry_run_writes_nothing(folder: Path, tmp_path: Path) -> None:
    run = convert(folder, "-o", tmp_path / "new", "--dry-run")
    assert run.returncode == 0, run.stderr
    assert "convertible" in run.stdout
    assert not list((tmp_path / "new").glob("*.arrows")) if (tmp_path / "new").exists() else True


def test_files_that_sglang_wrote_convert(tmp_path: Path) -> None:
    sources = sorted(LEGACY.rglob("*qwen25vl_image1*.pkl")) or sorted(LEGACY.rglob("*.pkl"))[:2]
    run = convert(*sources, "-o", tmp_path / "new", "--verify")
    assert run.returncode == 0, run.stderr
    assert list((tmp_path / "new").glob("*.arrows"))


def test_nothing_to_convert_is_an_error_with_a_reason(tmp_path: Path) -> None:
    run = convert(tmp_path / "absent.pkl", "-o", tmp_path / "new")
    assert run.returncode in (1, 3)
    assert "error:" in run.stderr
    assert "Traceback" not in run.stderr


def test_a_message_of_something_else_is_not_replaced(folder: Path, tmp_path: Path) -> None:
    """Only what an earlier run made of the same source is written over without being asked."""
    target = tmp_path / "x.arrows"
    mm.encode(mm.MultimodalInputs(request_data={"mine": 1})).save(target)
    before = target.read_bytes()
    refused = convert(folder / "good.pkl", "-o", target)
    assert refused.returncode == 1
    assert f"{target} exists" in refused.stderr and "--force" in refused.stderr
    assert target.read_bytes() == before
    forced = convert(folder / "good.pkl", "-o", target, "--force")
    assert forced.returncode == 0, forced.stderr
    assert "pixel_values" in mm.decode(target).request_data
    assert str(tmp_path / ".mmformat-convert.jsonl") in forced.stderr
    values = {"pixel_values": np.zeros((1, 1), np.float32)}
    (folder / "good.pkl").write_bytes(pickle.dumps(values, protocol=4))
    assert convert(folder / "good.pkl", "-o", target).returncode == 0, "the same source, changed"


def test_a_folder_that_no_run_wrote_to_is_not_written_over(folder: Path, tmp_path: Path) -> None:
    new = tmp_path / "new"
    new.mkdir()
    mm.encode(mm.MultimodalInputs(request_data={"mine": 1})).save(new / "good.pkl.arrows")
    for _ in range(2):  # that a run was refused is no leave for the next
        assert convert(folder, "-o", new).returncode == 1
        assert mm.decode(new / "good.pkl.arrows").request_data == {"mine": 1}
    assert convert(folder, "-o", new, "--force").returncode == 0
    assert "pixel_values" in mm.decode(new / "good.pkl.arrows").request_data
    (new / ".mmformat-convert.jsonl").unlink()  # as if a run had been killed before it noted it
    assert convert(folder, "-o", new).returncode == 0, "the same bytes are there"
