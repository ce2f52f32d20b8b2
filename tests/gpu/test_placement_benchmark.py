"""The placement scenario runs, and every way brings every bit."""

from __future__ import annotations

import pytest

from benchmarks.placement import run_expansion, run_one_device

pytestmark = pytest.mark.gpu


def test_every_way_is_correct() -> None:
    result = run_one_device(requests=["0.6 MB"], rounds=2)
    assert all(cell["correct"] for cell in result["cells"]), result["cells"]
    assert {cell["done_ns"]["n"] for cell in result["cells"]} == {2}


def test_the_expansion_is_measured() -> None:
    assert len(run_expansion(rounds=2)["cells"]) == 12
