"""A little of each scenario in under a minute: what a maintainer looks at first."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Final

from benchmarks.results import Result
from benchmarks.scenarios import SCENARIOS, Follow
from mmformat.bench.measure import environment

__all__ = ["Line", "Suite", "run_suite"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """Hold one line of the summary.

    Parameters
    ----------
    what : str
        The question.
    ours, other, control : float
        Milliseconds: this library, the best rival, and what the bytes themselves cost.
    rival : str
        Which rival that is.
    """

    what: str
    ours: float
    rival: str
    other: float
    control: float

    @property
    def ratio(self) -> float:
        """The rival over ours: above 1 we are faster."""
        return self.other / self.ours


@dataclass(slots=True, kw_only=True)
class Suite:
    """Hold the results of one quick run."""

    results: list[Result]
    duration_s: float

    @property
    def is_correct(self) -> bool:
        """Whether every method carried every bit."""
        return all(result.is_correct for result in self.results)

    def to_json(self) -> dict[str, Any]:
        """Return everything, raw samples included."""
        return {
            "mmformat_bench": 1,
            "scenario": "quick",
            "duration_s": self.duration_s,
            "environment": environment(),
            "results": [result.to_json() for result in self.results],
        }

    def lines(self) -> list[Line]:
        """Return the summary: ours beside the fastest rival and the control, the losses first."""
        found = []
        for result in self.results:
            described = SCENARIOS[result.scenario]
            metric = described.metric
            for payload in dict.fromkeys(cell.payload for cell in result.cells):
                medians = {
                    cell.method: cell.median(metric) / 1e6
                    for cell in result.cells
                    if cell.payload == payload
                }
                rivals = {
                    method: value
                    for method, value in medians.items()
                    if not described.is_ours(method) and method not in described.controls
                }
                controls = [medians[method] for method in described.controls if method in medians]
                best = min(rivals, key=rivals.__getitem__, default="")
                found.append(
                    Line(
                        what=f"{result.scenario}: {result.subject(payload).title}",
                        ours=medians[described.ours],
                        rival=best,
                        other=rivals.get(best, float("nan")),
                        control=controls[0] if controls else float("nan"),
                    )
                )
        return sorted(found, key=lambda line: (line.ratio != line.ratio, line.ratio))


_PLAN: Final[tuple[tuple[str, dict[str, Any]], ...]] = (
    (
        "fanout",
        {
            "payloads": ("image-small", "image"),
            "methods": ("mmformat-arena", "msgspec-oob", "memcpy"),
            "ranks": 4,
            "rounds": 7,
        },
    ),
    ("put", {"payloads": ("image-small", "image"), "rounds": 5}),
    (
        "codec",
        {
            "payloads": ("image-small", "image"),
            "methods": ("mmformat", "pickle5", "pickle5-oob", "msgspec-oob", "memcpy"),
            "rounds": 5,
        },
    ),
    (
        "materialize",
        {
            "payloads": ("qwen2-vl-1024",),
            "methods": ("mmformat-dictionary", "transformers", "pil-decode"),
            "rounds": 5,
        },
    ),
    ("detect", {"payloads": ("pixels-float32", "embeddings-bfloat16"), "rounds": 5}),
    ("legacy", {"payloads": ("made-small", "made"), "rounds": 5}),
)


def run_suite(*, follow: Follow | None = None) -> Suite:
    """Run a little of each scenario and return their results.

    Parameters
    ----------
    follow : callable, optional
        Told what is being done.
    """
    start_s = time.monotonic()
    results = []
    for number, (name, settings) in enumerate(_PLAN):

        def tell(text: str, done: float, name: str = name, number: int = number) -> None:
            if follow is not None:
                follow(f"{name}: {text}", (number + done) / len(_PLAN))

        tell("starting", 0.0)
        results.append(SCENARIOS[name].run(follow=tell, **settings))
    return Suite(results=results, duration_s=time.monotonic() - start_s)
