"""What ranks placed is told to the registry that they were given, and to no other."""

from __future__ import annotations

import gc
import time

import pytest
from prometheus_client import CollectorRegistry

from mmformat.cuda import PlacementStats
from mmformat.cuda.metrics import RankMetrics, placement_metrics_of

LABELS = {"arena": "mmf-x", "device": "cuda:0"}


def rank(stats: PlacementStats, registry: object) -> RankMetrics:
    return RankMetrics(stats, registry, arena="mmf-x", device="cuda:0")


def test_counts_and_times_are_told() -> None:
    registry = CollectorRegistry()
    stats = PlacementStats(registered=True)
    metrics = rank(stats, registry)
    stats.messages, stats.nbytes, stats.staged_messages = 3, 1000, 1
    metrics.returned(time.monotonic() - 0.02)
    metrics.placed(time.monotonic() - 2.0)

    def told(name: str) -> float | None:
        return registry.get_sample_value(f"mmformat_placement_{name}", LABELS)

    assert told("messages_total") == 3
    assert told("nbytes_total") == 1000
    assert told("staged_messages_total") == 1
    assert told("registered") == 1
    assert told("get_seconds_count") == told("copy_seconds_count") == 1
    assert 0.02 <= told("get_seconds_sum") < 1
    assert 2 <= told("copy_seconds_sum") < 3


def test_two_ranks_share_a_registry_and_a_dead_one_is_forgotten() -> None:
    registry = CollectorRegistry()
    first = rank(PlacementStats(messages=1), registry)
    second = RankMetrics(PlacementStats(messages=5), registry, arena="mmf-y", device="cuda:1")
    other = {"arena": "mmf-y", "device": "cuda:1"}
    name = "mmformat_placement_messages_total"
    assert registry.get_sample_value(name, LABELS) == 1
    assert registry.get_sample_value(name, other) == 5
    del first
    gc.collect()
    assert registry.get_sample_value(name, LABELS) is None
    assert registry.get_sample_value(name, other) == 5
    assert second.labels == ("mmf-y", "cuda:1")


@pytest.mark.parametrize("call", ["returned", "placed"])
def test_without_a_registry_nothing_is_told(call) -> None:
    assert placement_metrics_of(None) is None
    getattr(rank(PlacementStats(), None), call)(0.0)
