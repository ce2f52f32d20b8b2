"""Count what an arena does, in a prometheus registry when the caller injects one."""

from __future__ import annotations

__all__ = ["ArenaMetrics"]


class ArenaMetrics:
    """Count nothing: the arena has no registry."""

    @classmethod
    def of(cls, registry: object | None) -> ArenaMetrics:
        """Return metrics in this registry, or ones that count nothing."""
        return cls()

    def waited(self) -> None:
        """Count a reserve that had to wait."""

    def hit(self, nbytes: int) -> None:
        """Count content that was already there."""

    def missed(self) -> None:
        """Count content that was not there."""

    def reclaimed(self, slots: int) -> None:
        """Count slots taken back from dead readers."""
