"""The fan-out in real processes, and the bench's front desk."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mmformat.bench.fanout import run_fanout
from mmformat.bench.results import load

COMMAND = [sys.executable, "-W", "error", "-m", "mmformat", "bench"]
SHM = Path("/dev/shm")


def _bench(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *map(str, arguments)], capture_output=True, text=True, timeout=110, check=False
    )


@pytest.mark.slow
@pytest.mark.timeout(300)  # nine processes import torch
def test_fanout_carries_every_bit_to_every_reader() -> None:
    before = set(SHM.glob("bench-mmformat-*"))
    arms = ["mmformat-arena", "mmformat-arena-again", "segment-per-tensor"]
    result = run_fanout(payloads=["image-small"], arms=arms, readers=2, rounds=2)
    assert {cell.arm: cell.correct for cell in result.cells} == dict.fromkeys(arms, True)
    for cell in result.cells:
        times = {name: samples.values for name, samples in cell.metrics.items()}
        for run in range(2):
            order = ["encode_ns", "sent_ns", "touched_ns"]
            assert 0 < times["encode_ns"][run] <= times["sent_ns"][run]
            assert (
                times["received_ns"][run] <= times["returned_ns"][run] <= times["touched_ns"][run]
            )
            assert all(len(times[name]) == 2 for name in order)
    assert set(SHM.glob("bench-mmformat-*")) == before


def test_bench_codec_writes_a_result_and_a_report(tmp_path: Path) -> None:
    path = tmp_path / "codec.json"
    arms = ["--arm", "mmformat", "--arm", "pickle5", "--arm", "vllm"]
    result = _bench("codec", "--payload", "image-small", *arms, "--rounds", 1, "--json", path)
    assert result.returncode == 0, result.stderr
    assert "mmformat" in result.stdout
    assert {cell["arm"] for cell in load(path)["cells"]} >= {"mmformat", "pickle5"}
    report = _bench("report", path, "-o", tmp_path / "report.md", "--plots", tmp_path / "plots")
    assert report.returncode == 0, report.stderr
    text = (tmp_path / "report.md").read_text()
    assert "![codec](plots/codec.png)" in text
    assert (tmp_path / "plots" / "codec.png").exists()


@pytest.mark.parametrize("scenario", ["codec", "put"])
def test_json_on_stdout(scenario: str) -> None:
    result = _bench(scenario, "--payload", "image-small", "--rounds", 1, "--quick", "--json")
    assert result.returncode == 0, result.stderr
    told = json.loads(result.stdout)
    assert (told["scenario"], told["mmformat_bench"]) == (scenario, 1)


@pytest.mark.parametrize(
    "arguments",
    [["codec", "--payload", "x"], ["fanout", "--arm", "x"], ["codec", "--rounds", "0"], []],
    ids=["payload", "arm", "rounds", "scenario"],
)
def test_wrong_usage(arguments: list[str]) -> None:
    result = _bench(*arguments)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
