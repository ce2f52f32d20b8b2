"""The script that holds the arena's latencies against another tree's: it runs, and counts."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_two_trees_take_turns_and_every_step_has_its_ratio(tmp_path: Path) -> None:
    path = tmp_path / "latency.json"
    ran = subprocess.run(
        [
            *(sys.executable, "-m", "benchmarks.arena_latency", "--against", str(ROOT)),
            *("--processes", "1", "--blocks", "2", "--rounds", "2", "--json", str(path)),
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        timeout=200,
    )
    assert ran.returncode == 0, ran.stderr
    found = json.loads(path.read_text())
    assert {(each["level"], each["nbytes"], each["step"]) for each in found["results"]} == {
        (level, nbytes, step)
        for level in ("bytes", "inputs")
        for nbytes in (602_112, 25_758_720)
        for step in ("put", "get", "read", "drop", "release")
    }
    for each in found["results"]:
        assert each["here"]["n"] == each["there"]["n"] == 4
        assert each["ratio"] == each["here"]["median"] / each["there"]["median"]
    assert ran.stdout.count("ratio") == len(found["results"])
