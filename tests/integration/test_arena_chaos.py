"""The chaos run in short; `make chaos` is the long one."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.chaos.run import Chaos, problems


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", [11])
def test_nobody_gets_a_wrong_byte_while_ranks_and_producers_die(tmp_path: Path, seed: int) -> None:
    figures = Chaos(tmp_path, requests=80, ranks=4, seed=seed).run()
    assert problems(figures) == [], figures
    assert figures["counts"]["producer deaths"] == 2
    assert figures["counts"]["rank deaths"] >= 1


def test_the_run_would_see_a_wrong_byte() -> None:
    """The guard is tested too: figures with one fault of each kind are all complained about."""
    good = {
        "counts": {"right": 3, "stale": 1, "announced": 4},
        "segments_left": [],
        "swept_at_the_end": [],
        "give_back_s": [0.1],
    }
    assert problems(good) == []
    for fault in (
        {"counts": {**good["counts"], "wrong": 1}},
        {"counts": {**good["counts"], "announced": 5}},
        {"counts": {"announced": 0}},
        {"segments_left": ["mmf-x"]},
        {"swept_at_the_end": ["mmf-x"]},
        {"give_back_s": [1.5]},
    ):
        assert problems({**good, **fault}), fault
