"""Caches bounded in entries and bytes, because a sender chooses what a reader would cache."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from functools import lru_cache, wraps
from typing import Generic, TypeVar

__all__ = ["BoundedCache", "SeenBefore", "bounded_cache"]

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

ENTRIES = 512


def bounded_cache(
    size: Callable[[K], int], *, limit: int
) -> Callable[[Callable[[K], V]], Callable[[K], V]]:
    """Cache a function of one hashable argument whose ``size`` is at most ``limit``."""

    def decorate(function: Callable[[K], V]) -> Callable[[K], V]:
        cached = lru_cache(maxsize=ENTRIES)(function)

        @wraps(function)
        def call(key: K) -> V:
            return cached(key) if size(key) <= limit else function(key)

        return call

    return decorate


class BoundedCache(Generic[K, V]):
    """A cache of at most so many entries and bytes; the oldest entry is dropped first.

    Parameters
    ----------
    entries, nbytes : int
        The bounds. An entry of more than an eighth of the bytes is not kept.
    """

    __slots__ = ("_entries", "_lock", "_nbytes", "_sizes", "get", "nbytes", "values")

    def __init__(self, *, entries: int, nbytes: int) -> None:
        self._entries = entries
        self._nbytes = nbytes
        self._lock = threading.Lock()
        self._sizes: dict[K, int] = {}
        self.values: dict[K, V] = {}
        self.nbytes = 0
        self.get = self.values.get

    def keeps(self, nbytes: int) -> bool:
        """Return whether a value of so many bytes would be kept."""
        return 8 * nbytes <= self._nbytes

    def put(self, key: K, value: V, nbytes: int) -> None:
        """Keep a value that takes about so many bytes."""
        if not self.keeps(nbytes):
            return
        with self._lock:
            self._drop(key)
            while self.values and (
                len(self.values) >= self._entries or self.nbytes + nbytes > self._nbytes
            ):
                self._drop(next(iter(self.values)))
            self.values[key] = value
            self._sizes[key] = nbytes
            self.nbytes += nbytes

    def _drop(self, key: K) -> None:
        self.values.pop(key, None)
        self.nbytes -= self._sizes.pop(key, 0)

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self.values.clear()
            self._sizes.clear()
            self.nbytes = 0


class SeenBefore:
    """Tell whether a key was seen recently; only hashes are kept.

    Making a plan costs more than decoding a message that is never repeated.
    """

    __slots__ = ("_entries", "_hashes")

    def __init__(self, *, entries: int) -> None:
        self._entries = entries
        self._hashes: set[int] = set()

    def __call__(self, key: Hashable) -> bool:
        """Return whether the key was there, and remember it."""
        value = hash(key)
        if value in self._hashes:
            return True
        if len(self._hashes) >= self._entries:
            self._hashes.clear()
        self._hashes.add(value)
        return False

    def clear(self) -> None:
        """Forget everything."""
        self._hashes.clear()
