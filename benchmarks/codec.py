"""Encode and decode in one process: time, bytes and page faults, method beside method."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.baselines import Method, method_class
from benchmarks.payloads import payload
from benchmarks.results import Result, available
from benchmarks.scenarios import Follow, Run
from mmformat.bench.comparison import opened, run_once
from mmformat.bench.measure import Cell, turns
from mmformat.bench.payloads import PAGE_NBYTES, Payload, digests_of, stamp, tensors_of
from mmformat.model import DictionaryTensor, MultimodalInputs

__all__ = ["rounds_for", "run_codec"]


@dataclass(frozen=True, slots=True)
class Rounds:
    """Say how often the methods take turns, and how many runs a turn has."""

    rounds: int
    repeats: int


def rounds_for(chosen: Payload, *, rounds: int | None = None, quick: bool = False) -> Rounds:
    """Return how often a payload is measured: at least 15 rounds, or 7 of a large one."""
    if quick:
        return Rounds(rounds or 3, 1)
    if chosen.is_large:
        return Rounds(rounds or 7, 1)
    return Rounds(rounds or 15, 20 if chosen.nbytes < 2**20 else 3)


def run_codec(run: Run) -> Result:
    """Measure every method with every payload, interleaved.

    Parameters
    ----------
    run : Run
        What to measure.

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
    present, missing = available(list(run.methods))
    result = Result(
        scenario="codec",
        settings={"quick": run.quick, "rounds": run.rounds, "page_nbytes": PAGE_NBYTES},
        missing=missing,
    )
    for index, name in enumerate(run.payloads):
        chosen = payload(name)
        usable = [method for method in present if _applies(method, chosen)]
        with opened({name: method_class(name) for name in usable}, chosen.nbytes) as sides:
            result.cells += _measured(
                chosen,
                sides,
                rounds_for(chosen, rounds=run.rounds, quick=run.quick),
                follow=_part(run.follow, chosen.title, index, len(run.payloads)),
            )
    return result


def _applies(method: str, chosen: Payload) -> bool:
    return chosen.dictionary is not None or not method_class(method).wants_dictionary


def _part(follow: Follow | None, title: str, index: int, count: int) -> Follow:
    def told(text: str, done: float) -> None:
        if follow is not None:
            follow(f"{title}: {text}", (index + done) / count)

    return told


def _measured(
    chosen: Payload, sides: dict[str, Method], plan: Rounds, *, follow: Follow
) -> list[Cell]:
    plain = chosen.make(0)
    encoded = chosen.dictionary(0) if chosen.dictionary is not None else plain
    cells = {name: Cell(payload=chosen.name, method=name) for name in sides}
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
        method = sides[turn.name]
        inputs = encoded if method.wants_dictionary else plain
        for number in range(plan.repeats):
            # The first run of a turn finds the caches full of other methods' work.
            prefix = "cold_" if number == 0 and plan.repeats > 1 else ""
            run_once(
                method,
                inputs,
                cells[turn.name],
                expected if number == plan.repeats - 1 else None,
                prefix=prefix if turn.is_recorded else None,
            )
    return list(cells.values())


def _expand_into(encoded: MultimodalInputs, plain: MultimodalInputs) -> None:
    for source, target in zip(tensors_of(encoded), tensors_of(plain), strict=True):
        target.copy_(source.expand() if isinstance(source, DictionaryTensor) else source)
