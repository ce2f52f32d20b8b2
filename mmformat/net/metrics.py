"""Tell a prometheus registry what publishers and mirrors hold and did."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from dataclasses import fields
from typing import Any, Final, Protocol

from mmformat._extras import require

__all__ = ["watch"]

_GAUGES: Final = frozenset(
    {"published", "published_nbytes", "leases", "streams", "transfers", "in_flight_nbytes"}
)


class _Source(Protocol):
    def stats(self) -> Any: ...


class _Collector:
    """Read the counts of one registry's publishers, or of its mirrors, when it is scraped."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._sources: weakref.WeakKeyDictionary[_Source, str] = weakref.WeakKeyDictionary()

    def add(self, name: str, source: _Source) -> None:
        """Read this one too, for as long as it lives."""
        self._sources[source] = name

    def describe(self) -> list[Any]:
        return []  # else the registry collects now

    def collect(self) -> Iterator[Any]:
        core = require("prometheus_client.core", extra="metrics")
        found = [(name, source.stats()) for source, name in list(self._sources.items())]
        for each in fields(found[0][1]) if found else ():
            made = core.GaugeMetricFamily if each.name in _GAUGES else core.CounterMetricFamily
            text = f"See {type(found[0][1]).__name__}.{each.name}."
            family = made(f"mmformat_net_{self._kind}_{each.name}", text, labels=["name"])
            for name, stats in found:
                family.add_metric([name], getattr(stats, each.name))
            yield family


_KNOWN: Final[weakref.WeakKeyDictionary[Any, dict[str, _Collector]]] = weakref.WeakKeyDictionary()


def watch(registry: Any, kind: str, name: str, source: _Source) -> None:
    """Register a publisher or a mirror for as long as it lives; None registers nothing.

    Raises
    ------
    MissingExtraError
        When a registry is given and prometheus_client is not installed.
    """
    if registry is None:
        return
    require("prometheus_client", extra="metrics")
    kinds = _KNOWN.setdefault(registry, {})
    if kind not in kinds:
        kinds[kind] = _Collector(kind)
        registry.register(kinds[kind])
    kinds[kind].add(name, source)
