"""What an arena holds at one moment, and what it did until then."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ArenaStats"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ArenaStats:
    """Count what an arena holds and did.

    Parameters
    ----------
    name : str
        The segment's name.
    nbytes, free_nbytes, largest_free_nbytes, cached_nbytes : int
        Bytes for slots: all, free, free in one piece, and kept only because they may be asked
        for again.
    slots, slots_granted : int
        Handles that may be unreleased at once, and that are.
    readers_attached : int
        Ranks that are attached and not known to be dead.
    hits, misses, bytes_saved, evictions : int
        Of content that was asked for by its identity.
    reclaimed : int
        Slots taken back from ranks that died.
    waits : int
        Reserves that had to wait for a release.
    """

    name: str
    nbytes: int
    free_nbytes: int
    largest_free_nbytes: int
    cached_nbytes: int
    slots: int
    slots_granted: int
    readers_attached: int
    hits: int
    misses: int
    bytes_saved: int
    evictions: int
    reclaimed: int
    waits: int
