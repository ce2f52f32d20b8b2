"""Encode and decode in one process: time, bytes and page faults, arm beside arm."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from mmformat.bench.arms import Arm, arm_class, make_arm
from mmformat.bench.pages import PAGE_NBYTES, touch
from mmformat.bench.payloads import Payload, digests_of, payload, stamp, tensors_of
from mmformat.bench.results import Cell, Result, available
from mmformat.bench.scenarios import SCENARIOS, Follow
from mmformat.measure import clock_ns, minor_faults, turns, without_collection
from mmformat.model import DictionaryTensor, MultimodalInputs

__all__ = ["rounds_for", "run_codec"]

_CODEC: Final = SCENARIOS["codec"]


@dataclass(frozen=True, slots=True)
class Rounds:
    """Say how often the arms take turns, and how many runs a turn has."""

    rounds: int
    repeats: int


def rounds_for(chosen: Payload, *, rounds: int | None = None, quick: bool = False) -> Rounds:
    """Return how often a payload is measured: at least 15 rounds, or 7 of a large one."""
    if quick:
        return Rounds(rounds or 3, 1)
    if chosen.is_large:
        return Rounds(rounds or 7, 1)
    return Rounds(rounds or 15, 20 if chosen.nbytes < 2**20 else 3)


def run_codec(
    *,
    payloads: Sequence[str] = _CODEC.payloads,
    arms: Sequence[str] = _CODEC.arms,
    rounds: int | None = None,
    quick: bool = False,
    follow: Follow | None = None,
) -> Result:
    """Measure every arm with every payload, interleaved.

    Parameters
    ----------
    payloads, arms : sequence of str
        Their names.
    rounds : int, optional
        How often the arms take turns; 15, or 7 for large payloads, when omitted.
    quick : bool
        Three rounds, to see that it works.
    follow : callable, optional
        Told what is being done.

    Returns
    -------
    Result
        ``encode_ns``, ``decode_ns`` until decode returned, ``touch_ns`` until every page was read,
        ``round_trip_ns`` of encode and decode, ``touched_ns`` of all three, and ``faults_count``.
        Where a turn has several runs, its first is apart, as ``cold_encode_ns`` and so on, and its
        last is compared bit for bit.

    Raises
    ------
    ModelError
        For a name that is none.
    """
    present, missing = available(list(arms))
    result = Result(
        scenario="codec",
        settings={"quick": quick, "rounds": rounds, "page_nbytes": PAGE_NBYTES},
        missing=missing,
    )
    for index, name in enumerate(payloads):
        chosen = payload(name)
        usable = [arm for arm in present if _applies(arm, chosen)]
        with _opened(usable, chosen) as sides:
            result.cells += _measured(
                chosen,
                sides,
                rounds_for(chosen, rounds=rounds, quick=quick),
                follow=_part(follow, chosen.title, index, len(payloads)),
            )
    return result


def _applies(arm: str, chosen: Payload) -> bool:
    return chosen.dictionary is not None or not arm_class(arm).wants_dictionary


def _part(follow: Follow | None, title: str, index: int, count: int) -> Follow:
    def told(text: str, done: float) -> None:
        if follow is not None:
            follow(f"{title}: {text}", (index + done) / count)

    return told


@contextmanager
def _opened(names: Sequence[str], chosen: Payload) -> Iterator[dict[str, Arm]]:
    sides: dict[str, Arm] = {}
    try:
        for name in names:
            sides[name] = make_arm(name)
            sides[name].open(nbytes=chosen.nbytes, ranks=1)
            sides[name].attach(rank=0)
        yield sides
    finally:
        for arm in sides.values():
            arm.close()


def _measured(
    chosen: Payload, sides: dict[str, Arm], plan: Rounds, *, follow: Follow
) -> list[Cell]:
    plain = chosen.make(0)
    encoded = chosen.dictionary(0) if chosen.dictionary is not None else plain
    cells = {name: Cell(payload=chosen.name, arm=name) for name in sides}
    stamped: int | None = None
    expected: list[str] = []
    for turn in turns(list(sides), rounds=plan.rounds):
        follow(turn.name, max(0, turn.number) / plan.rounds)
        if turn.number != stamped:
            stamped = turn.number
            stamp(encoded, turn.number)
            if plain is not encoded:
                _expand_into(encoded, plain)
            else:
                stamp(plain, turn.number)
            expected = digests_of(plain)
        arm = sides[turn.name]
        inputs = encoded if arm.wants_dictionary else plain
        for number in range(plan.repeats):
            # The first run of a turn finds the caches full of other arms' work.
            prefix = "cold_" if number == 0 and plan.repeats > 1 else ""
            _run_once(
                arm,
                inputs,
                cells[turn.name],
                expected if number == plan.repeats - 1 else None,
                prefix=prefix if turn.is_recorded else None,
            )
    return list(cells.values())


def _run_once(
    arm: Arm,
    inputs: MultimodalInputs,
    cell: Cell,
    expected: list[str] | None,
    *,
    prefix: str | None,
) -> None:
    with without_collection():
        faults = minor_faults()
        start_ns = clock_ns()
        frames = arm.encode(inputs)
        encoded_ns = clock_ns()
        decoded = arm.decode(frames)
        decoded_ns = clock_ns()
        touch(decoded)
        touched_ns = clock_ns()
        faults = minor_faults() - faults
    cell.wire_nbytes = sum(memoryview(frame).nbytes for frame in frames)
    values = {
        "encode_ns": encoded_ns - start_ns,
        "decode_ns": decoded_ns - encoded_ns,
        "touch_ns": touched_ns - decoded_ns,
        "round_trip_ns": decoded_ns - start_ns,
        "touched_ns": touched_ns - start_ns,
        "faults_count": faults,
    }
    if prefix is not None:
        cell.add(**{prefix + name: value for name, value in values.items()})
    if arm.carries and expected is not None:
        cell.correct = cell.correct and digests_of(decoded) == expected
    del decoded, frames
    arm.release()
    arm.reclaim()


def _expand_into(encoded: MultimodalInputs, plain: MultimodalInputs) -> None:
    for source, target in zip(tensors_of(encoded), tensors_of(plain), strict=True):
        target.copy_(source.expand() if isinstance(source, DictionaryTensor) else source)
