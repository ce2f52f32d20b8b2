"""A time is worse beyond noise and beyond the control; a count when it leaves its allowance."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.compare import compare
from mmformat.bench.measure import Samples
from mmformat.errors import ModelError


def _result(**medians_ms: float) -> dict[str, Any]:
    return {
        "scenario": "put",
        "environment": {"python": "3.11.7"},
        "cells": [
            {
                "payload": "image",
                "arm": name.replace("_", "-"),
                "metrics": {
                    "put_ns": Samples(
                        "ns", [value * 1e6 * factor for factor in (0.97, 0.99, 1, 1.01, 1.03)]
                    ).to_json()
                },
            }
            for name, value in medians_ms.items()
        ],
    }


def _verdicts(old: dict[str, Any], new: dict[str, Any]) -> dict[str, str]:
    return {change.method: change.verdict for change in compare(old, new)}


@pytest.mark.parametrize(
    ("now", "control", "verdict"),
    [
        (10.0, 5.0, "same"),
        (10.5, 5.0, "same"),  # within a tenth
        (13.0, 5.0, "worse"),
        (13.0, 6.5, "same"),  # the machine is slower, not the library
        (7.0, 5.0, "better"),
        (7.0, 3.5, "same"),
    ],
)
def test_a_time_is_judged_beside_the_control(now: float, control: float, verdict: str) -> None:
    found = _verdicts(_result(arena_put=10, memcpy=5), _result(arena_put=now, memcpy=control))
    assert found["arena-put"] == verdict
    assert found["memcpy"] == "same"


def test_overlapping_quartiles_are_noise() -> None:
    old, new = _result(arena_put=10), _result(arena_put=13)
    old["cells"][0]["metrics"]["put_ns"]["q3"] = 14e6
    assert _verdicts(old, new) == {"arena-put": "same"}


def test_the_worst_comes_first_and_suites_are_opened() -> None:
    old, new = _result(arena_put=10, memcpy_slice=5), _result(arena_put=30, memcpy_slice=5)
    changes = compare({"scenario": "quick", "results": [old]}, {"results": [new]})
    assert [change.method for change in changes] == ["arena-put", "memcpy-slice"]
    assert changes[0].ratio == pytest.approx(3)


def test_nothing_in_common_is_an_error() -> None:
    other = _result(arena_put=1)
    other["cells"][0]["payload"] = "video"
    with pytest.raises(ModelError, match="none in common"):
        compare(_result(arena_put=1), other)


def _counts(python: str = "3.11.7", **values: float) -> dict[str, Any]:
    metrics = {name: {"samples": [value, value + 5]} for name, value in values.items()}
    cell = {"payload": "image", "arm": "put", "metrics": metrics}
    return {"scenario": "counts", "environment": {"python": python}, "cells": [cell]}


@pytest.mark.parametrize(
    ("metric", "old", "new", "verdict"),
    [
        ("calls_count", 400, 420, "same"),
        ("calls_count", 400, 500, "worse"),
        ("calls_count", 500, 400, "better"),
        ("allocated_nbytes", 9_000, 60_000, "same"),
        ("allocated_nbytes", 9_000, 25_768_000, "worse"),
        ("torch_copied_nbytes", 0, 4_096, "same"),
        ("torch_copied_nbytes", 0, 602_112, "worse"),
        ("faulted_nbytes", 1_600_000, 27_000_000, "worse"),
    ],
)
def test_counts_have_allowances(metric: str, old: float, new: float, verdict: str) -> None:
    (change,) = compare(_counts(**{metric: old}), _counts(**{metric: new}))
    assert change.verdict == verdict
    assert (change.old, change.new) == (old, new)


def test_another_python_is_not_judged_by_its_bytecodes() -> None:
    old = _counts(calls_count=400, allocated_nbytes=9_000)
    new = _counts("3.13.1", calls_count=900, allocated_nbytes=9_000_000)
    found = {change.metric: change.verdict for change in compare(old, new)}
    assert found == {"calls_count": "same", "allocated_nbytes": "worse"}
