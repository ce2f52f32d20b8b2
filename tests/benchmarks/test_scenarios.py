"""The fan-out in real processes, and the bench's front desk."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.commands import parser
from benchmarks.results import load
from benchmarks.scenarios import SCENARIOS
from mmformat.cli.front import main

COMMAND = [sys.executable, "-W", "error", "-m", "benchmarks"]
SHM = Path("/dev/shm")


def _bench(
    *arguments: object,
    timeout_s: float = 110,
    path: Path | None = None,
    visible_devices: str | None = None,
) -> subprocess.CompletedProcess[str]:
    searched = os.pathsep.join([str(path), os.environ.get("PYTHONPATH", "")])
    more = {} if path is None else {"PYTHONPATH": searched}
    if visible_devices is not None:
        more["CUDA_VISIBLE_DEVICES"] = visible_devices
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
        env={**os.environ, **more},
    )


@pytest.mark.slow
@pytest.mark.timeout(300)  # nine processes import torch
def test_fanout_carries_every_bit_to_every_reader() -> None:
    before = set(SHM.glob("bench-mmformat-*"))
    methods = ["mmformat-arena", "mmformat-arena-again", "segment-per-tensor"]
    result = SCENARIOS["fanout"].run(payloads=["image-small"], methods=methods, ranks=2, rounds=2)
    assert {cell.method: cell.correct for cell in result.cells} == dict.fromkeys(methods, True)
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
    methods = ["--method", "mmformat", "--method", "pickle5", "--method", "vllm"]
    result = _bench("codec", "--payload", "image-small", *methods, "--rounds", 1, "--json", path)
    assert result.returncode == 0, result.stderr
    assert "mmformat" in result.stdout
    assert {cell["arm"] for cell in load(path)["cells"]} >= {"mmformat", "pickle5"}
    report = _bench("report", path, "-o", tmp_path / "report.md", "--plots", tmp_path / "plots")
    assert report.returncode == 0, report.stderr
    text = (tmp_path / "report.md").read_text()
    assert "![codec](plots/codec.png)" in text
    assert (tmp_path / "plots" / "codec.png").exists()


@pytest.mark.parametrize(
    ("scenario", "options", "methods"),
    [
        ("codec", ["--payload", "image-small"], {"mmformat", "pickle5", "memcpy"}),
        ("put", ["--payload", "image-small"], {"arena-put", "memcpy"}),
        ("materialize", ["--payload", "clip-1024"], {"mmformat-dictionary", "pil-decode"}),
        ("detect", ["--payload", "embeddings-bfloat16"], {"mmformat", "memcpy"}),
        ("legacy", ["--payload", "made-small"], {"mmformat-isolated", "pickle-loads", "read"}),
        ("compression", ["--payload", "gaussian-bfloat16"], {"mmformat-lz4", "memcpy"}),
        ("growth", ["--payload", "items"], {"mmformat-arena", "pickle5", "memcpy"}),
    ],
)
def test_each_scenario_has_a_control_and_carries_every_bit(
    scenario: str, options: list[str], methods: set[str]
) -> None:
    result = _bench(scenario, *options, "--rounds", 1, "--quick", "--json")
    assert result.returncode == 0, result.stderr
    told = json.loads(result.stdout)
    assert (told["scenario"], told["mmformat_bench"]) == (scenario, 1)
    assert {cell["arm"] for cell in told["cells"]} >= methods
    metric = SCENARIOS[scenario].metric
    assert all(cell["correct"] for cell in told["cells"])
    assert all(min(cell["metrics"][metric]["samples"]) > 0 for cell in told["cells"])
    assert {cell["arm"] for cell in told["cells"]} & set(SCENARIOS[scenario].controls)


def test_growth_is_drawn_and_says_where_it_pays(tmp_path: Path) -> None:
    path = tmp_path / "growth.json"
    chosen = ["--payload", "bytes", "--payload", "requests"]
    assert _bench("growth", *chosen, "--quick", "--json", path).returncode == 0
    told = load(path)
    # The fan-out's part is measured by the slow test below; here it is written down.
    for method, costs in {"mmformat-arena": (2.0, 2.0), "pickle5-oob": (1.0, 4.0)}.items():
        for nbytes, cost in zip((2**20, 2**22), costs, strict=True):
            name = f"knee-4-{nbytes}"
            samples = {"unit": "ns", "n": 1, "median": cost, "q1": cost, "q3": cost, "iqr": 0}
            metrics = {"cost_ns": {**samples, "samples": [cost]}}
            told["cells"].append({"payload": name, "arm": method, "metrics": metrics})
            place = {"name": name, "title": name, "nbytes": nbytes, "at": float(nbytes)}
            told["payloads"].append({**place, "axis": "knee, 4 ranks"})
    told["arms"].append({"name": "pickle5-oob", "title": "pickle 5, out-of-band", "note": ""})
    path.write_text(json.dumps(told))
    report = _bench("report", path, "-o", tmp_path / "r.md", "--plots", tmp_path / "plots")
    assert report.returncode == 0, report.stderr
    text = (tmp_path / "r.md").read_text()
    assert "| 4 ranks | 2.1 MB |" in text  # half-way in logarithms between 1 and 4 MiB
    assert "With 4 ranks, pickle 5 out-of-band is faster under 2.1 MB" in text
    assert (tmp_path / "plots" / "growth.png").stat().st_size > 10_000


@pytest.mark.slow
@pytest.mark.timeout(300)  # four processes import torch
def test_the_knee_is_measured_with_real_readers() -> None:
    result = SCENARIOS["growth"].run(
        payloads=["ranks", "knee"], methods=["mmformat-arena", "memcpy"], ranks=[1], quick=True
    )
    assert result.is_correct
    axes = {result.subjects[cell.payload].axis for cell in result.cells}
    assert axes == {"ranks", "knee, 1 rank"}
    assert all(cell.metrics["cost_ns"].n == 3 for cell in result.cells)


@pytest.mark.slow
@pytest.mark.timeout(600)  # fifteen processes import torch
def test_quick_is_one_screen_with_a_plot(tmp_path: Path) -> None:
    path, picture = tmp_path / "quick.json", tmp_path / "quick.png"
    result = _bench("--quick", "--json", path, "--plot", picture, timeout_s=580)
    assert result.returncode == 0, result.stderr
    assert len(result.stdout.splitlines()) < 24
    assert max(map(len, result.stdout.splitlines())) < 160
    assert picture.read_bytes().startswith(b"\x89PNG")
    scenarios = [each["scenario"] for each in load(path)["results"]]
    assert scenarios == ["fanout", "put", "codec", "materialize", "detect", "legacy"]
    again = _bench("put", "--payload", "image-small", "--rounds", 1, "--compare", path)
    assert again.returncode == 0, again.stderr
    assert "arena-put" in again.stdout


def test_a_slower_result_is_exit_status_1_when_asked(tmp_path: Path) -> None:
    path = tmp_path / "put.json"
    chosen = ["put", "--payload", "image-small", "--method", "arena-put", "--rounds", 2]
    assert _bench(*chosen, "--json", path).returncode == 0
    told = load(path)
    for cell in told["cells"]:
        samples = cell["metrics"]["put_ns"]
        for name in ("median", "q1", "q3"):
            samples[name] /= 1000
    path.write_text(json.dumps(told))
    assert _bench(*chosen, "--compare", path).returncode == 0
    result = _bench(*chosen, "--compare", path, "--fail-on-regression")
    assert result.returncode == 1
    assert "worse" in result.stdout


def test_an_extra_copy_anywhere_below_fails_the_counts(tmp_path: Path) -> None:
    base = tmp_path / "counts.json"
    chosen = ["counts", "--payload", "1x1MiB", "--method", "put", "--rounds", 1]
    first = _bench(*chosen, "--json", base)
    assert first.returncode == 0, first.stderr
    same = _bench(*chosen, "--compare", base)
    assert same.returncode == 0, same.stdout
    assert "0 of" in same.stdout
    # Python imports this module in every process that it starts, before anything else runs.
    (tmp_path / "sitecustomize.py").write_text(
        "from mmformat.model.message import EncodedMessage\n"
        "plain = EncodedMessage.write_into\n"
        "def wasteful(self, view):\n"
        "    return plain(type(self)([bytes(frame) for frame in self.frames]), view)\n"
        "EncodedMessage.write_into = wasteful\n"
    )
    wasteful = _bench(*chosen, "--compare", base, path=tmp_path)
    assert wasteful.returncode == 1, wasteful.stderr
    assert "allocated_nbytes" in wasteful.stdout


def test_placement_says_that_there_is_no_device() -> None:
    result = _bench("placement", "one-device", visible_devices="")
    assert result.returncode == 3
    assert result.stderr.startswith("error: expected a CUDA device, got torch ")
    assert "hint: " in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["codec", "--payload", "x"],
        ["fanout", "--method", "x"],
        ["codec", "--rounds", "0"],
        ["placement", "x"],
        [],
    ],
    ids=["payload", "method", "rounds", "part", "scenario"],
)
def test_wrong_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments, parser=parser) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
