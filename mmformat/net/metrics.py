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
    """Read the counts of one publisher or mirror when the registry is scraped."""

    def __init__(self, kind: str, name: str, source: _Source) -> None:
        self._kind = kind
        self._name = name
        self._source = weakref.ref(source)

    def describe(self) -> list[Any]:
        return []  # else the registry collects now, and refuses a second of the same kind

    def collect(self) -> Iterator[Any]:
        core = require("prometheus_client.core", extra="metrics")
        source = self._source()
        if source is None:
            return
        stats = source.stats()
        for each in fields(stats):
            made = core.GaugeMetricFamily if each.name in _GAUGES else core.CounterMetricFamily
            family = made(
                f"mmformat_net_{self._kind}_{each.name}",
                f"See {type(stats).__name__}.{each.name}.",
                labels=["name"],
            )
            family.add_metric([self._name], getattr(stats, each.name))
            yield family


def watch(registry: Any, kind: str, name: str, source: _Source) -> None:
    """Register a publisher or a mirror for as long as it lives; None registers nothing.

    Raises
    ------
    MissingExtraError
        When a registry is given and prometheus_client is not installed.
    """
    if registry is not None:
        require("prometheus_client", extra="metrics")
        registry.register(_Collector(kind, name, source))
