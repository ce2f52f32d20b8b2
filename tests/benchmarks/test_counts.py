"""The counters see every copy, are the same at each run, and an extra copy is a regression."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.compare import compare
from benchmarks.counts import count, count_here, operations
from mmformat import codec

NBYTES = 2**22


@pytest.fixture(autouse=True, scope="module")
def a_small_heap() -> Iterator[None]:
    """Every count collects garbage seven times; without this it walks what all tests have made."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def _nothing(result: Any) -> None:
    pass


@pytest.mark.parametrize(
    ("copies", "metric"),
    [
        (lambda raw: raw.numpy().copy(), "allocated_nbytes"),
        (lambda raw: raw.numpy().tobytes(), "allocated_nbytes"),
        (lambda raw: raw.clone(), "torch_copied_nbytes"),
        (lambda raw: torch.empty_like(raw).copy_(raw), "torch_copied_nbytes"),
        (lambda raw: __import__("pyarrow").allocate_buffer(NBYTES), "arrow_allocated_nbytes"),
    ],
    ids=["numpy", "bytes", "clone", "copy_", "arrow"],
)
def test_each_kind_of_copy_is_seen(copies: Callable[[Any], Any], metric: str) -> None:
    raw = torch.arange(NBYTES, dtype=torch.int64).to(torch.uint8)
    count(lambda: copies(raw), _nothing)
    seen = count(lambda: copies(raw), _nothing)
    assert NBYTES <= seen[metric] < NBYTES * 1.1
    view = count(lambda: raw.view(-1)[:10].numpy()[:5], _nothing)
    assert view[metric] < 2**14


def test_python_s_work_is_counted() -> None:
    few = count(lambda: [abs(number) for number in range(10)], _nothing)
    many = count(lambda: [abs(number) for number in range(1000)], _nothing)
    assert many["calls_count"] - few["calls_count"] == 990
    assert many["bytecodes_count"] > few["bytecodes_count"] + 990


def _told(cells: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "scenario": "counts",
        "environment": {"python": "3.11.7"},
        "cells": [
            {
                "payload": cell["payload"],
                "arm": cell["arm"],
                "metrics": {
                    name: {"samples": [each[name] for each in cell["counts"]]}
                    for name in cell["counts"][0]
                },
            }
            for cell in cells
        ],
    }


def test_counting_twice_finds_no_change() -> None:
    first, second = (
        _told(count_here("1x1MiB", ["encode", "decode", "put", "get", "reserve"], rounds=2))
        for _ in range(2)
    )
    changes = compare(first, second)
    assert len(changes) >= 5 * 6
    worse = [change for change in changes if change.verdict == "worse"]
    # In the tests' own process other memory is fresh too; `bench counts` has one of its own.
    assert [change for change in worse if change.metric != "faulted_nbytes"] == []


@pytest.mark.parametrize("kind", ["torch", "numpy", "bytes", "loop"])
@pytest.mark.parametrize("method", ["encode", "put"])
def test_an_injected_extra_copy_is_a_regression(
    method: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = _told(count_here("1x1MiB", [method], rounds=1))
    plain = codec.encode
    again: dict[str, Callable[[Any], Any]] = {
        "torch": lambda tensor: tensor.clone(),
        "numpy": lambda tensor: np.array(tensor.numpy()),
        "bytes": lambda tensor: tensor.numpy().tobytes(),
        "loop": lambda tensor: [abs(number) for number in range(5000)],
    }

    def wasteful(inputs: Any, **options: Any) -> Any:
        kept = again[kind](inputs.items[0].feature)
        message = plain(inputs, **options)
        del kept
        return message

    monkeypatch.setattr(codec, "encode", wasteful)
    monkeypatch.setattr("mmformat.arena.putting.encode", wasteful)
    worse = {
        change.metric
        for change in compare(before, _told(count_here("1x1MiB", [method], rounds=1)))
        if change.verdict == "worse"
    }
    expected = {
        "torch": "torch_copied_nbytes",
        "numpy": "allocated_nbytes",
        "bytes": "allocated_nbytes",
        "loop": "calls_count",
    }
    assert expected[kind] in worse


def test_operations_let_go_of_what_they_took() -> None:
    with operations("1x256KiB") as found:
        for _ in range(20):
            for operation in found:
                operation.after(operation.run())
