"""Tell a prometheus registry what the arenas hold and how long puts and gets take."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Any, Final, Protocol

from mmformat._extras import require
from mmformat.errors import TransportError
from mmformat.shm.stats import ArenaStats

__all__ = ["Metrics", "metrics_of"]

_GAUGES: Final = {
    "nbytes": "Bytes for slots.",
    "free_nbytes": "Bytes that are free.",
    "cached_nbytes": "Bytes kept only because they may be asked for again.",
    "slots": "Handles that may be unreleased at once.",
    "slots_granted": "Handles that some rank has not released.",
    "readers_attached": "Ranks that are attached and not known to be dead.",
}
_COUNTERS: Final = {
    "hits": "Puts of content that was there.",
    "misses": "Questions for content that was not there.",
    "bytes_saved": "Bytes that hits did not copy.",
    "evictions": "Contents given up for room.",
    "reclaimed": "Slots taken back from dead ranks.",
    "waits": "Reserves that had to wait for a release.",
}
_BUCKETS_S: Final = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)


class _Source(Protocol):
    def stats(self) -> ArenaStats: ...


class Metrics:
    """Collect from every arena of one registry; use :func:`metrics_of`.

    Notes
    -----
    Counts are read when the registry is scraped. Only the histograms cost anything at a put or a
    get, and only where a registry was injected.
    """

    def __init__(self, registry: Any) -> None:
        histogram = require("prometheus_client", extra="metrics").Histogram
        self._sources: weakref.WeakSet[_Source] = weakref.WeakSet()
        self.put_s, self.wait_s, self.get_s = (
            histogram(f"mmformat_arena_{name}_seconds", text, buckets=_BUCKETS_S, registry=registry)
            for name, text in (
                ("put", "From the reserve of a slot to its seal."),
                ("wait", "How long a reserve that had to wait did so."),
                ("get", "The mapping of a slot in a rank."),
            )
        )
        registry.register(self)

    def watch(self, source: _Source) -> None:
        """Collect from this arena for as long as it lives."""
        self._sources.add(source)

    def collect(self) -> Iterator[Any]:
        """Yield the families of metrics, as a registry asks for them."""
        core = require("prometheus_client.core", extra="metrics")
        found = []
        for source in list(self._sources):
            try:
                found.append(source.stats())
            except TransportError:  # it was closed
                continue
        for names, kind in (
            (_GAUGES, core.GaugeMetricFamily),
            (_COUNTERS, core.CounterMetricFamily),
        ):
            for name, text in names.items():
                family = kind(f"mmformat_arena_{name}", text, labels=["arena"])
                for stats in found:
                    family.add_metric([stats.name], getattr(stats, name))
                yield family


_KNOWN: Final[weakref.WeakKeyDictionary[Any, Metrics]] = weakref.WeakKeyDictionary()


def metrics_of(registry: Any) -> Metrics | None:
    """Return the metrics of a prometheus registry, made at its first use; None for None.

    Raises
    ------
    MissingExtraError
        When a registry is given and prometheus_client is not installed.
    TransportError
        With code ``arena-argument`` when it is no registry.
    """
    if registry is None:
        return None
    # A class has the method too, and takes no metrics.
    if isinstance(registry, type) or not callable(getattr(registry, "register", None)):
        raise TransportError(
            f"expected a prometheus_client registry, got {type(registry).__name__}",
            path="$.registry",
            code="arena-argument",
        )
    found = _KNOWN.get(registry)
    if found is None:
        found = _KNOWN[registry] = Metrics(registry)
    return found
