"""How cost grows: with bytes, items, requests so far and ranks; and the size from which it pays."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from benchmarks.baselines import Method, method_class
from benchmarks.payloads import payload
from benchmarks.results import Result, Subject, available
from benchmarks.scenarios import Follow, Run
from mmformat.bench.comparison import opened
from mmformat.bench.crew import Crew
from mmformat.bench.fanout import Group
from mmformat.bench.measure import Cell, clock_ns, turns, without_collection
from mmformat.bench.payloads import digests_of, stamp, touch
from mmformat.model import MultimodalInputs

__all__ = [
    "grow_bytes",
    "grow_fans",
    "grow_items",
    "grow_requests",
    "knee_nbytes",
    "run_growth",
]


def knee_nbytes(
    ours: Iterable[tuple[float, float]], theirs: Iterable[tuple[float, float]]
) -> float | None:
    """Return the size from which ours costs less, or None when it never does.

    Parameters
    ----------
    ours, theirs : iterable of (float, float)
        Size and cost; the sizes are the same.

    Returns
    -------
    float or None
        Between two sizes the logarithm of the ratio is taken to be a line in the logarithm of the
        size. The smallest size that was measured, when ours costs less there and everywhere after.

    Examples
    --------
    >>> round(knee_nbytes([(1, 2.0), (4, 2.0)], [(1, 1.0), (4, 4.0)]), 6)
    2.0
    """
    mine, others = dict(ours), dict(theirs)
    points = [(at, math.log(mine[at] / others[at])) for at in sorted(mine) if at in others]
    knee: float | None = None
    for index in range(len(points) - 1, -1, -1):
        at, ratio = points[index]
        if ratio > 0:
            if index == len(points) - 1:
                return None
            after, less = points[index + 1]
            share = ratio / (ratio - less)
            return math.exp(math.log(at) + share * (math.log(after) - math.log(at)))
        knee = at
    return knee


_ITEM: Final = "64KiB"
_REQUEST: Final = "1x256KiB"
_REQUESTS: Final = 10_000
_SAMPLES: Final = 100
"""Of a stretch of requests, evenly spread: 10,000 numbers a method would say no more."""


def grow_bytes(result: Result, methods: Sequence[str], *, rounds: int | None, quick: bool) -> None:
    """Measure one item of 1 to 512 MiB."""
    for exponent in range(5 if quick else 10):
        mebibytes = 2**exponent
        subject = Subject(
            name=f"bytes-{mebibytes}",
            title=f"one item of {mebibytes} MiB",
            nbytes=mebibytes * 2**20,
            axis="bytes",
            at=float(mebibytes * 2**20),
        )
        count = rounds or (3 if quick or mebibytes > 64 else 7)
        _measure(result, subject, f"1x{mebibytes}MiB", methods, rounds=count, repeats=3)


def grow_items(result: Result, methods: Sequence[str], *, rounds: int | None, quick: bool) -> None:
    """Measure 1 to 256 items of 64 KiB."""
    for exponent in range(5 if quick else 9):
        items = 2**exponent
        subject = Subject(
            name=f"items-{items}",
            title=f"{items} item{'s' if items > 1 else ''} of 64 KiB",
            nbytes=items * 2**16,
            axis="items",
            at=float(items),
        )
        count = rounds or (3 if quick else 7)
        _measure(result, subject, f"{items}x{_ITEM}", methods, rounds=count, repeats=10)


def grow_requests(
    result: Result, methods: Sequence[str], *, rounds: int | None, quick: bool
) -> None:
    """Measure the first to the 10,000th request of one arena."""
    inputs = payload(_REQUEST).make(0)
    edges = list(_edges(200 if quick else _REQUESTS))
    names = [name for name in available(list(methods))[0] if name != "pickle5-oob"]
    with opened({name: method_class(name) for name in names}, payload(_REQUEST).nbytes) as sides:
        start = 0
        for end in edges:
            subject = Subject(
                name=f"requests-{end}",
                title=f"requests {start + 1} to {end}, each one item of 256 KiB",
                nbytes=payload(_REQUEST).nbytes,
                axis="requests",
                at=float(end),
            )
            result.subjects[subject.name] = subject
            cells = {name: Cell(payload=subject.name, method=name) for name in sides}
            step = max(1, (end - start) // _SAMPLES)
            for number in range(start, end):
                stamp(inputs, number)
                kept = (number - start) % step == 0
                for name, method in sides.items():
                    check = number == end - 1
                    _once(method, inputs, cells[name], is_recorded=kept, is_checked=check)
            result.cells += cells.values()
            start = end


def _edges(last: int) -> Iterator[int]:
    size = 10
    while size <= last:
        yield from (end for end in (size, 2 * size, 5 * size) if end <= last)
        size *= 10


def _measure(
    result: Result,
    subject: Subject,
    name: str,
    methods: Sequence[str],
    *,
    rounds: int,
    repeats: int,
) -> None:
    # Out-of-band frames are views until a socket sends them: their cost is in the other axes.
    names = [method for method in available(list(methods))[0] if method != "pickle5-oob"]
    inputs = payload(name).make(0)
    result.subjects[subject.name] = subject
    cells = {method: Cell(payload=subject.name, method=method) for method in names}
    with opened({name: method_class(name) for name in names}, subject.nbytes) as sides:
        for turn in turns(names, rounds=rounds):
            stamp(inputs, turn.number)
            for number in range(repeats):
                check = number == repeats - 1 and turn.number in (-1, rounds - 1)
                cell = cells[turn.name]
                _once(
                    sides[turn.name],
                    inputs,
                    cell,
                    is_recorded=turn.is_recorded,
                    is_checked=check,
                )
    result.cells += cells.values()


def _once(
    method: Method, inputs: MultimodalInputs, cell: Cell, *, is_recorded: bool, is_checked: bool
) -> None:
    with without_collection():
        start_ns = clock_ns()
        frames = method.encode(inputs)
        encoded_ns = clock_ns()
        decoded = method.decode(frames)
        touch(decoded)
        done_ns = clock_ns()
    cell.wire_nbytes = sum(memoryview(frame).nbytes for frame in frames)
    if is_recorded:
        cell.add(cost_ns=encoded_ns - start_ns, get_ns=done_ns - encoded_ns)
    if is_checked and method.carries:
        cell.correct = cell.correct and digests_of(decoded) == digests_of(inputs)
    del decoded, frames
    method.release()
    method.reclaim()


_STARTUP_TIMEOUT_S: Final = 600.0
_RANKS_PAYLOAD: Final = 16 * 2**20
_KIBIBYTES: Final = tuple(2**exponent for exponent in range(8, 17))
"""256 KiB to 64 MiB."""


def grow_fans(
    result: Result,
    methods: Sequence[str],
    *,
    axes: Sequence[str],
    ranks: Sequence[int],
    rounds: int | None,
    quick: bool,
    full: bool,
    tell: Follow,
) -> None:
    """Measure every size with every number of readers; each method has processes of its own."""
    # In-band pickle is far behind at every size; out-of-band is what a careful user has.
    names = [method for method in available(list(methods))[0] if method != "pickle5"]
    sizes = [size * 2**10 for size in (_KIBIBYTES[:5] if quick else _KIBIBYTES)]
    if full:
        sizes += [128 * 2**20, 256 * 2**20, 512 * 2**20]
    if "knee" not in axes:
        sizes = [size for size in sizes if size == _RANKS_PAYLOAD] or sizes[-1:]
    ranks_nbytes = min(_RANKS_PAYLOAD, sizes[-1])
    for place, count in enumerate(ranks):
        with Crew() as crew:
            groups = {
                method: Group(crew, method, ranks=count, timeout_s=_STARTUP_TIMEOUT_S)
                for method in names
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
    chosen = payload(name)
    cells = {method: Cell(payload=name, method=method) for method in groups}
    for method, group in groups.items():
        group.load(method_class(method), chosen)
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
    for method, cell in cells.items():
        result.cells.append(
            Cell(
                payload=where,
                method=method,
                metrics={"cost_ns": cell.metrics[metric]},
                wire_nbytes=cell.wire_nbytes,
                correct=cell.correct,
            )
        )


_IN_PROCESS: Final = {"bytes": grow_bytes, "items": grow_items, "requests": grow_requests}
_READERS: Final = (1, 2, 4, 8)


def run_growth(run: Run, *, ranks: Sequence[int] | None = None, full: bool = False) -> Result:
    """Measure ``cost_ns`` along each axis.

    Parameters
    ----------
    run : Run
        What to measure.
    ranks : sequence of int, optional
        Ranks of ``ranks`` and ``knee``; 1, 2, 4 and 8 when omitted.
    full : bool
        The knee up to 512 MB too.

    Notes
    -----
    The payloads are the axes. ``bytes``, ``items`` and ``requests`` measure encoding, as put does
    it, in one process, and ``get_ns`` of decoding; ``ranks`` measures the producer until all was
    sent, and ``knee`` until the last rank has read every page, both with real processes.
    """
    tell = run.follow or (lambda text, done: None)
    counts = tuple(ranks or ((1, 2) if run.quick else _READERS))
    settings: dict[str, Any] = {
        "quick": run.quick,
        "rounds": run.rounds,
        "full": full,
        "readers": counts,
    }
    result = Result(scenario="growth", settings=settings)
    steps = len(run.payloads)
    for number, axis in enumerate(run.payloads):
        tell(axis, number / steps)
        if axis in _IN_PROCESS:
            _IN_PROCESS[axis](result, run.methods, rounds=run.rounds, quick=run.quick)
    fans = [axis for axis in run.payloads if axis in ("ranks", "knee")]
    if fans:
        grow_fans(
            result,
            run.methods,
            axes=fans,
            ranks=counts,
            rounds=run.rounds,
            quick=run.quick,
            full=full,
            tell=lambda text, done: tell(text, 1 - len(fans) / steps * (1 - done)),
        )
    return result
