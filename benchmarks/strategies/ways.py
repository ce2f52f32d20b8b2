"""The ways, what was once estimated of three of them, and what ours has to show."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

__all__ = ["ESTIMATES", "GOALS", "WAYS", "Estimate", "Goal", "Way"]

Place = Literal["every rank", "rank 0", "tokenizer", "pool"]
Carrier = Literal["pickle", "segment", "arena"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """Say where a request's media become tensors, and how these reach the ranks.

    Parameters
    ----------
    name, title : str
        For the command line, and for a table.
    materialize : {"every rank", "rank 0", "tokenizer", "pool"}
        Who decodes: each rank for itself; rank 0, before it broadcasts; the tokenizer in its own
        loop; the tokenizer's pool.
    carrier : {"pickle", "segment", "arena"}
        Pickle protocol 5 in-band; a segment per tensor and pickled stubs; a handle of the arena.
    overlap : bool
        Whether rank 0 broadcasts asynchronously and goes on to the next request.
    dictionary : bool
        Whether uint8 codes and tables travel in place of floats.
    compression : str, optional
        A codec for tensors over 10 MiB.
    repeated : bool
        Whether the requests' content is already there from an earlier one.
    """

    name: str
    title: str
    materialize: Place
    carrier: Carrier
    overlap: bool = False
    dictionary: bool = False
    compression: str | None = None
    repeated: bool = False

    @property
    def in_place(self) -> bool:
        """Whether images are processed in the slot where the ranks read them."""
        return self.carrier == "arena" and self.compression is None and not self.repeated


WAYS: Final[tuple[Way, ...]] = (
    Way(
        name="every-rank",
        title="each rank decodes",
        materialize="every rank",
        carrier="pickle",
    ),
    Way(
        name="rank-0",
        title="rank 0 decodes and broadcasts a pickle",
        materialize="rank 0",
        carrier="pickle",
    ),
    Way(
        name="tokenizer",
        title="the tokenizer decodes, pickle to every rank",
        materialize="tokenizer",
        carrier="pickle",
    ),
    Way(
        name="tokenizer-pool",
        title="the tokenizer's pool decodes, pickle to every rank",
        materialize="pool",
        carrier="pickle",
    ),
    Way(
        name="rank-0-async",
        title="rank 0 decodes and broadcasts asynchronously",
        materialize="rank 0",
        carrier="pickle",
        overlap=True,
    ),
    Way(
        name="segments",
        title="the tokenizer decodes, a segment for each tensor",
        materialize="tokenizer",
        carrier="segment",
    ),
    Way(
        name="mmformat",
        title="mmformat, plain",
        materialize="pool",
        carrier="arena",
    ),
    Way(
        name="mmformat-dictionary",
        title="mmformat, dictionary",
        materialize="pool",
        carrier="arena",
        dictionary=True,
    ),
    Way(
        name="mmformat-lz4",
        title="mmformat, LZ4 over 10 MiB",
        materialize="pool",
        carrier="arena",
        compression="lz4",
    ),
    Way(
        name="mmformat-cached",
        title="mmformat, content already in the arena",
        materialize="pool",
        carrier="arena",
        repeated=True,
    ),
)
"""In the order of the table."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """Hold what the original analysis expected at TP=4 with 10 requests, never measured."""

    cpu_ms: float
    latency_ms: float
    requests_per_s: float
    cpu_use: str
    scheduler_blocked: str


ESTIMATES: Final[dict[str, Estimate]] = {
    "every-rank": Estimate(
        cpu_ms=2000, latency_ms=500, requests_per_s=2.0, cpu_use="99 %", scheduler_blocked="no"
    ),
    "rank-0": Estimate(
        cpu_ms=500, latency_ms=750, requests_per_s=1.3, cpu_use="99.9 %", scheduler_blocked="yes"
    ),
    "tokenizer": Estimate(
        cpu_ms=500, latency_ms=650, requests_per_s=1.7, cpu_use="<70 %", scheduler_blocked="no"
    ),
}
"""By way; the analysis had no numbers for the others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """Say how one way has to compare with another in one metric."""

    ours: str
    theirs: str
    metric: str
    title: str
    ratio: float
    at_least: bool

    def holds(self, ours: float, theirs: float) -> bool:
        """Say whether two medians meet it.

        Examples
        --------
        >>> GOALS[0].holds(50, 10), GOALS[0].holds(49, 10)
        (True, False)
        """
        return ours >= self.ratio * theirs if self.at_least else ours <= self.ratio * theirs


GOALS: Final = tuple(
    Goal(
        ours=ours,
        theirs=theirs,
        metric=metric,
        title=title,
        ratio=ratio,
        at_least=at_least,
    )
    for ours in ("mmformat", "mmformat-dictionary")
    for theirs, metric, title, ratio, at_least in (
        ("rank-0", "throughput_per_s", "requests/s", 5.0, True),
        ("rank-0", "blocked_total_ms", "scheduler blocked in all, ms", 0.1, False),
        ("every-rank", "cpu_ms", "CPU ms a request", 0.2, False),
        ("segments", "throughput_per_s", "requests/s", 1.5, True),
    )
)
"""Plain and with dictionary encoding, against what engines do."""
