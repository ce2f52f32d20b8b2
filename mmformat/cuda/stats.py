"""What a rank placed, and by which way."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["PlacementStats"]


@dataclass(slots=True, kw_only=True)
class PlacementStats:
    """Count what was placed on devices.

    Parameters
    ----------
    registered : bool
        Whether the arena is pinned where it lies.
    reason : str or None
        Why it is not, when it was to be.
    messages, nbytes : int
        Messages that were placed, and their bytes on the bus.
    staged_messages : int
        Of these, how many went through pinned staging memory.
    """

    registered: bool = False
    reason: str | None = None
    messages: int = 0
    nbytes: int = 0
    staged_messages: int = 0
