"""Tell a prometheus registry what ranks placed on their devices, by which way, and how long."""

from __future__ import annotations

import time
import weakref
from collections.abc import Iterator
from typing import Any, Final

from mmformat._extras import require
from mmformat.cuda.stats import PlacementStats

__all__ = ["PlacementMetrics", "RankMetrics", "placement_metrics_of"]

_COUNTERS: Final = {
    "messages": "Messages placed on a device.",
    "nbytes": "Bytes of these messages.",
    "staged_messages": "Of these messages, those that went through staging memory.",
}
_BUCKETS_S: Final = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.03, 0.1, 1.0)
_LABELS: Final = ("arena", "device")


class PlacementMetrics:
    """Collect from every rank of one registry; use :func:`placement_metrics_of`.

    Notes
    -----
    Counts are read when the registry is scraped; what a rank counted goes with it.
    """

    def __init__(self, registry: Any) -> None:
        histogram = require("prometheus_client", extra="metrics").Histogram
        self._sources: weakref.WeakKeyDictionary[RankMetrics, PlacementStats] = (
            weakref.WeakKeyDictionary()
        )
        self.returned_s, self.placed_s = (
            histogram(f"mmformat_placement_{name}_seconds", text, buckets=_BUCKETS_S,
                      labelnames=_LABELS, registry=registry)
            for name, text in (
                ("get", "From a get until Python went on."),
                ("copy", "From a get until the copy was seen done, half a millisecond late."),
            )
        )  # fmt: skip
        registry.register(self)

    def watch(self, source: RankMetrics, stats: PlacementStats) -> None:
        """Collect these counts for as long as the rank lives."""
        self._sources[source] = stats

    def collect(self) -> Iterator[Any]:
        """Yield the families of metrics, as a registry asks for them."""
        core = require("prometheus_client.core", extra="metrics")
        found = list(self._sources.items())
        for name, text in _COUNTERS.items():
            family = core.CounterMetricFamily(f"mmformat_placement_{name}", text, labels=_LABELS)
            for source, stats in found:
                family.add_metric(source.labels, getattr(stats, name))
            yield family
        family = core.GaugeMetricFamily(
            "mmformat_placement_registered",
            "Whether the arena is pinned where it lies; 0: everything is staged.",
            labels=_LABELS,
        )
        for source, stats in found:
            family.add_metric(source.labels, int(stats.registered))
        yield family


class RankMetrics:
    """Take one rank's times; without a registry this does nothing.

    Parameters
    ----------
    stats : PlacementStats
        The rank's counts.
    registry : prometheus_client.CollectorRegistry or None
        Where they are told.
    arena, device : str
        The labels.
    """

    def __init__(self, stats: PlacementStats, registry: Any, *, arena: str, device: str) -> None:
        self.labels = (arena, device)
        self._returned_s: Any = None
        self._placed_s: Any = None
        made = placement_metrics_of(registry)
        if made is not None:
            made.watch(self, stats)
            self._returned_s = made.returned_s.labels(*self.labels)
            self._placed_s = made.placed_s.labels(*self.labels)

    def returned(self, started_s: float) -> None:
        """Note that Python goes on after a get."""
        if self._returned_s is not None:
            self._returned_s.observe(time.monotonic() - started_s)

    def placed(self, started_s: float) -> None:
        """Note that a copy was seen done."""
        if self._placed_s is not None:
            self._placed_s.observe(time.monotonic() - started_s)


_KNOWN: Final[weakref.WeakKeyDictionary[Any, PlacementMetrics]] = weakref.WeakKeyDictionary()


def placement_metrics_of(registry: Any) -> PlacementMetrics | None:
    """Return the metrics of a prometheus registry, made at its first use; None for None.

    Raises
    ------
    MissingExtraError
        When a registry is given and prometheus_client is not installed.
    """
    if registry is None:
        return None
    found = _KNOWN.get(registry)
    if found is None:
        found = _KNOWN[registry] = PlacementMetrics(registry)
    return found
