"""Say why an arena is full: which of slots and bytes is short, who holds them, what frees them."""

from __future__ import annotations

from dataclasses import dataclass

from mmformat.errors import ArenaFullError

__all__ = ["Holding", "Shortage"]

_NAMED: int = 8
"""Ranks that a message names; the rest are counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """Count what one rank keeps from being used again."""

    rank: int
    slots: int
    nbytes: int
    ever_attached: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Shortage:
    """Hold what a reserve asked for and what the arena had.

    Parameters
    ----------
    wanted_nbytes, timeout_s
        What was asked for.
    nbytes, free_nbytes, largest_free_nbytes : int
        Bytes for slots: all, free, and free in one piece.
    slots, free_slots : int
        Handles that may be unreleased at once, and that still could be.
    unsealed_slots : int
        Of the slots that are taken, those that the producer reserved and did not seal.
    writer_nbytes : int
        Bytes that nobody holds but a tensor of the producer's own, over a slot that it wrote.
    holdings : tuple of Holding
        Ranks that have not released what was granted to them.
    """

    wanted_nbytes: int
    timeout_s: float
    nbytes: int
    free_nbytes: int
    largest_free_nbytes: int
    slots: int
    free_slots: int
    unsealed_slots: int
    writer_nbytes: int
    holdings: tuple[Holding, ...]

    def error(self) -> ArenaFullError:
        """Return the error that says all this, and in its hint what can be done."""
        got = (
            f"{self.free_nbytes:,} free of {self.nbytes:,} ({self.largest_free_nbytes:,} in one "
            f"piece) and {self.free_slots} free of {self.slots} slots"
        )
        if self.unsealed_slots:
            got += f", {self.unsealed_slots} reserved and not sealed"
        held = _held(self.holdings, slots=self.free_slots == 0)
        return ArenaFullError(
            f"expected room for {self.wanted_nbytes:,} bytes within {self.timeout_s:g} s, got "
            f"{got}: {self._cause()}{held}",
            hint="; ".join(self._remedies()),
        )

    def _cause(self) -> str:
        if self.free_slots == 0:
            return "every slot is taken"
        if self.free_nbytes >= self.wanted_nbytes:
            return "the free bytes lie in pieces"
        return "too few bytes are free"

    def _remedies(self) -> list[str]:
        absent = [str(each.rank) for each in self.holdings if not each.ever_attached]
        remedies = []
        if absent:
            remedies.append(
                f"attach {_ranks(absent)}, which everything since the start is kept for, or create "
                "the arena for fewer ranks"
            )
        if len(absent) < len(self.holdings):
            remedies.append("drop the tensors in the ranks, or release their handles, sooner")
        if self.unsealed_slots:
            remedies.append("seal or abandon what is reserved")
        if self.writer_nbytes:
            remedies.append(
                f"drop the producer's own tensors over sealed slots ({self.writer_nbytes:,} bytes)"
            )
        larger = "with more slots" if self.free_slots == 0 else "with more bytes"
        return [*remedies, f"wait longer, or create an arena {larger}"]


def _held(holdings: tuple[Holding, ...], *, slots: bool) -> str:
    worst = sorted(holdings, key=lambda each: each.slots if slots else each.nbytes, reverse=True)
    texts = [
        f"rank {each.rank} holds {each.slots} ({each.nbytes:,} bytes)"
        + ("" if each.ever_attached else " and has never attached")
        for each in worst[:_NAMED]
    ]
    if len(worst) > _NAMED:
        texts.append(f"{len(worst) - _NAMED} more hold some")
    return f"; {', '.join(texts)}" if texts else ""


def _ranks(numbers: list[str]) -> str:
    if len(numbers) == 1:
        return f"rank {numbers[0]}"
    shown = ", ".join(numbers[:_NAMED])
    return f"ranks {shown}" + (" and more" if len(numbers) > _NAMED else "")
