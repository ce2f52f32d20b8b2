"""The axes that need real readers: the ranks, and the size from which shared memory pays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from mmformat.bench.crew import Crew
from mmformat.bench.fanout.group import Group
from mmformat.bench.payloads import payload
from mmformat.bench.results import Cell, Result, Subject, available
from mmformat.bench.scenarios import Follow
from mmformat.measure import turns

__all__ = ["grow_fans"]

_STARTUP_TIMEOUT_S: Final = 600.0
_RANKS_PAYLOAD: Final = 16 * 2**20
_KIBIBYTES: Final = tuple(2**exponent for exponent in range(8, 17))
"""256 KiB to 64 MiB."""


def grow_fans(
    result: Result,
    arms: Sequence[str],
    *,
    axes: Sequence[str],
    ranks: Sequence[int],
    rounds: int | None,
    quick: bool,
    full: bool,
    tell: Follow,
) -> None:
    """Measure every size with every number of readers; each arm has processes of its own."""
    # In-band pickle is far behind at every size; out-of-band is what a careful user has.
    names = [arm for arm in available(list(arms))[0] if arm != "pickle5"]
    sizes = [size * 2**10 for size in (_KIBIBYTES[:5] if quick else _KIBIBYTES)]
    if full:
        sizes += [128 * 2**20, 256 * 2**20, 512 * 2**20]
    if "knee" not in axes:
        sizes = [size for size in sizes if size == _RANKS_PAYLOAD] or sizes[-1:]
    ranks_nbytes = min(_RANKS_PAYLOAD, sizes[-1])
    for place, count in enumerate(ranks):
        with Crew() as crew:
            groups = {
                arm: Group(crew, arm, ranks=count, timeout_s=_STARTUP_TIMEOUT_S) for arm in names
            }
            for group in groups.values():
                tell(f"starting {len(names) * (count + 1)} processes", place / len(ranks))
                group.wait_ready()
            for number, nbytes in enumerate(sizes):
                told = f"{nbytes / 1e6:.1f} MB to {count}"
                tell(told, (place + number / len(sizes)) / len(ranks))
                turns_count = rounds or (3 if quick or nbytes > 2**26 else 7)
                cells = _carry(groups, nbytes, rounds=turns_count)
                if "knee" in axes:
                    _add(result, cells, axis="knee", nbytes=nbytes, ranks=count)
                if "ranks" in axes and nbytes == ranks_nbytes:
                    _add(result, cells, axis="ranks", nbytes=nbytes, ranks=count)
            for group in groups.values():
                group.end()


def _carry(groups: dict[str, Group], nbytes: int, *, rounds: int) -> dict[str, Cell]:
    name = f"1x{nbytes // 2**20}MiB" if nbytes >= 2**20 else f"1x{nbytes // 2**10}KiB"
    cells = {arm: Cell(payload=payload(name).name, arm=arm) for arm in groups}
    for group in groups.values():
        group.load(name)
    for turn in turns(list(groups), rounds=rounds):
        groups[turn.name].round(turn.number, cells[turn.name], is_recorded=turn.is_recorded)
    for group in groups.values():
        group.unload()
    return cells


def _add(result: Result, cells: dict[str, Cell], *, axis: str, nbytes: int, ranks: int) -> None:
    metric = "sent_ns" if axis == "ranks" else "touched_ns"
    where = f"{axis}-{ranks}" if axis == "ranks" else f"{axis}-{ranks}-{nbytes // 2**10}"
    noun = "rank" if ranks == 1 else "ranks"
    result.subjects[where] = Subject(
        name=where,
        title=f"{nbytes / 2**20:g} MiB to {ranks} {noun}",
        nbytes=nbytes,
        axis="ranks" if axis == "ranks" else f"knee, {ranks} {noun}",
        at=float(ranks if axis == "ranks" else nbytes),
    )
    for arm, cell in cells.items():
        result.cells.append(
            Cell(
                payload=where,
                arm=arm,
                metrics={"cost_ns": cell.metrics[metric]},
                wire_nbytes=cell.wire_nbytes,
                correct=cell.correct,
            )
        )
