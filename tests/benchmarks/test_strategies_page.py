"""The strategies' page says what its result says: values, estimates and goals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.report.strategies import strategies_page
from benchmarks.strategies import WAYS


def _result(tmp_path: Path, *, ours_per_s: float) -> Path:
    def samples(value: float) -> dict[str, Any]:
        return {"median": value, "samples": [value]}

    cells = [
        {
            "way": way.name,
            "title": way.title,
            "estimate": {
                "cpu_ms": 2000,
                "latency_ms": 500,
                "requests_per_s": 2.0,
                "cpu_use": "99 %",
                "scheduler_blocked": "no",
            }
            if way.name == "every-rank"
            else None,
            "metrics": {
                "materializations_count": samples(1),
                "cpu_ms": samples(100),
                "cpu_use_share": samples(0.5),
                "latency_ms": samples(30),
                "concurrent_ms": {"median": 3.0, "samples": [1.0, 2.0, 3.0, 4.0, 55.0]},
                "throughput_per_s": samples(ours_per_s if way.name == "mmformat" else 10),
                "blocked_longest_ms": samples(20),
                "blocked_total_ms": samples(40),
                "moved_nbytes": samples(25_800_000),
                "peak_pss_nbytes": samples(2e9),
            },
        }
        for way in WAYS
    ]
    path = tmp_path / "strategies-test.json"
    environment = {
        "time_utc": "2026-01-01T00:00:00Z",
        "cpu": "a processor",
        "cores_usable": 2,
        "python": "3.11",
        "packages": {"torch": "2.13.0"},
        "load": [0.5, 0, 0],
    }
    settings = {
        "tp": 4,
        "requests": 5,
        "payload": "image",
        "rounds": 1,
        "workers": 2,
        "feature_nbytes_of_the_first_request": 25_759_104,
    }
    path.write_text(
        json.dumps(
            {
                "mmformat_bench": 1,
                "scenario": "strategies",
                "settings": settings,
                "environment": environment,
                "cells": cells,
            }
        )
    )
    return path


def _row(page: str, start: str) -> str:
    return next(line for line in page.splitlines() if line.startswith(start))


def test_both_sides_of_each_goal_and_whether_it_is_met(tmp_path: Path) -> None:
    met = strategies_page([_result(tmp_path, ours_per_s=50)])
    assert _row(met, "| mmformat | rank-0 | requests/s").endswith("50, 10 | 5 | at least 5: met |")
    missed = strategies_page([_result(tmp_path, ours_per_s=49)])
    assert _row(missed, "| mmformat | rank-0 | requests/s").endswith("at least 5: **missed** |")


def test_measured_beside_estimated_and_percentiles_of_the_samples(tmp_path: Path) -> None:
    page = strategies_page([_result(tmp_path, ours_per_s=50)])
    assert "| 100; 2000 | 30; 500 | 10.0; 2 | 50%; 99 % | 20 ms; no |" in page
    assert "| 3 | 55 |" in _row(page, "| mmformat, plain |")
    assert "tensors on the host" in page
