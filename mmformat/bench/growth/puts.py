"""The axes that one process is enough for: bytes, items of a request, requests so far."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from mmformat.bench.arms import Arm, make_arm
from mmformat.bench.pages import touch
from mmformat.bench.payloads import digests_of, payload, stamp
from mmformat.bench.results import Cell, Result, Subject, available
from mmformat.measure import clock_ns, turns, without_collection
from mmformat.model import MultimodalInputs

__all__ = ["grow_bytes", "grow_items", "grow_requests"]

_ITEM: Final = "64KiB"
_REQUEST: Final = "1x256KiB"
_REQUESTS: Final = 10_000
_SAMPLES: Final = 100
"""Of a stretch of requests, evenly spread: 10,000 numbers an arm would say no more."""


def grow_bytes(result: Result, arms: Sequence[str], *, rounds: int | None, quick: bool) -> None:
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
        _measure(result, subject, f"1x{mebibytes}MiB", arms, rounds=count, repeats=3)


def grow_items(result: Result, arms: Sequence[str], *, rounds: int | None, quick: bool) -> None:
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
        _measure(result, subject, f"{items}x{_ITEM}", arms, rounds=count, repeats=10)


def grow_requests(result: Result, arms: Sequence[str], *, rounds: int | None, quick: bool) -> None:
    """Measure the first to the 10,000th request of one arena."""
    inputs = payload(_REQUEST).make(0)
    edges = list(_edges(200 if quick else _REQUESTS))
    names = [name for name in available(list(arms))[0] if name != "pickle5-oob"]
    with _opened(names, payload(_REQUEST).nbytes) as sides:
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
            cells = {name: Cell(payload=subject.name, arm=name) for name in sides}
            step = max(1, (end - start) // _SAMPLES)
            for number in range(start, end):
                stamp(inputs, number)
                kept = (number - start) % step == 0
                for name, arm in sides.items():
                    check = number == end - 1
                    _once(arm, inputs, cells[name], is_recorded=kept, is_checked=check)
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
    arms: Sequence[str],
    *,
    rounds: int,
    repeats: int,
) -> None:
    # Out-of-band frames are views until a socket sends them: their cost is in the other axes.
    names = [arm for arm in available(list(arms))[0] if arm != "pickle5-oob"]
    inputs = payload(name).make(0)
    result.subjects[subject.name] = subject
    cells = {arm: Cell(payload=subject.name, arm=arm) for arm in names}
    with _opened(names, subject.nbytes) as sides:
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
    arm: Arm, inputs: MultimodalInputs, cell: Cell, *, is_recorded: bool, is_checked: bool
) -> None:
    with without_collection():
        start_ns = clock_ns()
        frames = arm.encode(inputs)
        encoded_ns = clock_ns()
        decoded = arm.decode(frames)
        touch(decoded)
        done_ns = clock_ns()
    cell.wire_nbytes = sum(memoryview(frame).nbytes for frame in frames)
    if is_recorded:
        cell.add(cost_ns=encoded_ns - start_ns, get_ns=done_ns - encoded_ns)
    if is_checked and arm.carries:
        cell.correct = cell.correct and digests_of(decoded) == digests_of(inputs)
    del decoded, frames
    arm.release()
    arm.reclaim()


@contextmanager
def _opened(names: Sequence[str], nbytes: int) -> Iterator[dict[str, Arm]]:
    sides: dict[str, Arm] = {}
    try:
        for name in names:
            sides[name] = make_arm(name)
            sides[name].open(nbytes=nbytes, ranks=1)
            sides[name].attach(rank=0)
        yield sides
    finally:
        for arm in sides.values():
            arm.close()
