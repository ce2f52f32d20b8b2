"""The benchmark `strategies` in real processes: every way carries the same tensors."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from benchmarks.strategies import WAYS

COUNTED = {
    "every-rank": 2.0,
    "rank-0": 1.0,
    "rank-0-async": 1.0,
    "segments": 1.0,
    "mmformat-dictionary": 1.0,
    "mmformat-cached": 0.0,
}


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", "strategies", *arguments],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize("way", COUNTED)
def test_a_way_materializes_as_often_as_it_says_and_carries_every_bit(way: str) -> None:
    run = bench(
        "--tp",
        "2",
        "--requests",
        "2",
        "--rounds",
        "1",
        "--payload",
        "mixed",
        "--way",
        way,
        "--json",
    )
    assert run.returncode == 0, run.stderr
    (cell,) = json.loads(run.stdout)["cells"]
    metrics = cell["metrics"]
    # A digest that differed in any rank would have ended the run.
    assert metrics["materializations_count"]["samples"] == [COUNTED[way]]
    assert metrics["latency_ms"]["n"] == metrics["concurrent_ms"]["n"] == 2
    assert (cell["estimate"] is None) == (way not in ("every-rank", "rank-0", "tokenizer"))


def test_a_way_that_is_none_is_a_usage_error() -> None:
    run = bench("--way", "teleport")
    assert run.returncode == 2
    assert all(way.name in run.stderr for way in WAYS)
