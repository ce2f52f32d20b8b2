"""Caches bounded in entries and bytes."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import lru_cache, wraps
from typing import TypeVar

__all__ = [
    "bounded_cache",
]

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

ENTRIES = 512


def bounded_cache(
    size: Callable[[K], int], *, limit: int
) -> Callable[[Callable[[K], V]], Callable[[K], V]]:
    """Cache a function of one hashable argument whose ``size`` is at most ``limit``.

    A hostile sender chooses the structures that a reader sees: without the limit, 512 of the
    largest would stay in memory.
    """

    def decorate(function: Callable[[K], V]) -> Callable[[K], V]:
        cached = lru_cache(maxsize=ENTRIES)(function)

        @wraps(function)
        def call(key: K) -> V:
            return cached(key) if size(key) <= limit else function(key)

        return call

    return decorate
