"""Put a result beside an older one: what is slower beyond noise, and what does more than it did."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from benchmarks.scenarios import SCENARIOS
from mmformat.errors import ModelError

__all__ = ["ALLOWANCES", "Change", "compare"]

NOISE: Final = 1.1
"""A median has to move by so much, and its quartiles clear of the older ones, to count."""

ALLOWANCES: Final[Mapping[str, tuple[float, float]]] = {
    "calls_count": (1.02, 20),
    "bytecodes_count": (1.05, 200),
    "allocated_nbytes": (1.10, 2**16),
    "torch_copied_nbytes": (1.0, 2**12),
    "arrow_allocated_nbytes": (1.05, 2**16),
    "faulted_nbytes": (1.25, 2**20),
    "instructions_count": (1.05, 10**5),
    "modules_count": (1.0, 3),
}
"""What a count may grow by, as a factor and as a sum on top, before it is a regression."""

_BY_VERSION: Final = frozenset(
    {"calls_count", "bytecodes_count", "instructions_count", "modules_count"}
)
"""Counts that another Python, or another processor, changes without anybody's doing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """Hold one metric of one cell, then and now.

    Parameters
    ----------
    scenario, payload, method, metric : str
        Where it was measured.
    old, new : float
        The medians.
    verdict : {"worse", "better", "same"}
        Whether it moved beyond noise.
    note : str
        What to know about the verdict.
    """

    scenario: str
    payload: str
    method: str
    metric: str
    old: float
    new: float
    verdict: str
    note: str = ""

    @property
    def ratio(self) -> float:
        """New over old."""
        if self.old == 0:
            return 1.0 if self.new == 0 else float("inf")
        return self.new / self.old


def compare(old: dict[str, Any], new: dict[str, Any]) -> list[Change]:
    """Return a change for each metric that both results have, the worst first.

    A time counts as changed when its median moved by more than a tenth, also beside the control
    method of the same payload, and its quartiles do not overlap with the older ones. A count
    changes when it leaves its allowance.

    Parameters
    ----------
    old, new : dict
        What :func:`benchmarks.results.load` returned: results, or suites of them.

    Raises
    ------
    ModelError
        When the two have no cell in common.
    """
    before = {_key(result, cell): (result, cell) for result, cell in _cells(old)}
    found: list[Change] = []
    for result, cell in _cells(new):
        if (key := _key(result, cell)) not in before:
            continue
        old_result, old_cell = before[key]
        if result["scenario"] == "counts":
            found += _counted(old_result, old_cell, result, cell)
        else:
            found.append(_timed(old_result, old_cell, result, cell))
    if not found:
        raise ModelError("expected results of the same scenarios and payloads, got none in common")
    order = {"worse": 0, "better": 1, "same": 2}
    return sorted(found, key=lambda change: (order[change.verdict], -change.ratio))


def _cells(told: dict[str, Any]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    for result in told.get("results", [told]):
        for cell in result["cells"]:
            yield result, cell


def _key(result: dict[str, Any], cell: dict[str, Any]) -> tuple[str, str, str]:
    return result["scenario"], cell["payload"], cell["arm"]


def _timed(
    old_result: dict[str, Any],
    old: dict[str, Any],
    new_result: dict[str, Any],
    new: dict[str, Any],
) -> Change:
    described = SCENARIOS[new_result["scenario"]]
    metric = described.metric
    then, now = old["metrics"][metric], new["metrics"][metric]
    ratio = now["median"] / then["median"]
    control = 1.0
    if new["arm"] not in described.controls:
        control = _control_ratio(old_result, new_result, new["payload"], described.controls, metric)
    note = "" if control == 1.0 else f"the control: {control:.2f}"
    verdict = "same"
    if min(then["n"], now["n"]) < 3:
        note = "fewer than 3 samples"
    elif min(ratio, ratio / control) > NOISE and now["q1"] > then["q3"]:
        verdict = "worse"
    elif max(ratio, ratio / control) < 1 / NOISE and now["q3"] < then["q1"]:
        verdict = "better"
    if new["arm"] in described.controls and verdict != "same":
        verdict, note = "same", "a control: the machine moved, not the library"
    return Change(
        scenario=new_result["scenario"],
        payload=new["payload"],
        method=new["arm"],
        metric=metric,
        old=then["median"],
        new=now["median"],
        verdict=verdict,
        note=note,
    )


def _control_ratio(
    old: dict[str, Any],
    new: dict[str, Any],
    payload: str,
    controls: Sequence[str],
    metric: str,
) -> float:
    for name in controls:
        medians = [
            cell["metrics"][metric]["median"]
            for result in (old, new)
            for cell in result["cells"]
            if (cell["payload"], cell["arm"]) == (payload, name)
        ]
        if len(medians) == 2 and medians[0] > 0:
            return float(medians[1] / medians[0])
    return 1.0


def _counted(
    old_result: dict[str, Any],
    old: dict[str, Any],
    new_result: dict[str, Any],
    new: dict[str, Any],
) -> Iterator[Change]:
    pythons = {
        each["environment"]["python"].rpartition(".")[0] for each in (old_result, new_result)
    }
    for metric, (factor, more) in ALLOWANCES.items():
        if metric not in old["metrics"] or metric not in new["metrics"]:
            continue
        # The least of several runs: what else happens, as a growing cache, only adds.
        then, now = (min(each["metrics"][metric]["samples"]) for each in (old, new))
        verdict, note = "same", ""
        if metric in _BY_VERSION and len(pythons) > 1:
            note = f"not judged: Python {' and '.join(sorted(pythons))}"
        elif now > then * factor + more:
            verdict, note = "worse", f"allowed: {then * factor + more:.0f}"
        elif then > now * factor + more:
            verdict, note = "better", "write a new baseline"
        yield Change(
            scenario="counts",
            payload=new["payload"],
            method=new["arm"],
            metric=metric,
            old=then,
            new=now,
            verdict=verdict,
            note=note,
        )
