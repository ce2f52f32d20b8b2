"""Run the fan-out: every method with processes of its own, all of them in turn."""

from __future__ import annotations

from typing import Final

from benchmarks.baselines import method_class
from benchmarks.codec import rounds_for
from benchmarks.payloads import payload
from benchmarks.results import Result, available
from benchmarks.scenarios import Follow, Run
from mmformat.bench.crew import Crew
from mmformat.bench.fanout import Group
from mmformat.bench.measure import Cell, turns
from mmformat.bench.payloads import PAGE_NBYTES

__all__ = ["run_fanout"]

_WARMUP_ROUNDS: Final = 2
_STARTUP_TIMEOUT_S: Final = 600.0


def run_fanout(run: Run, *, ranks: int = 4) -> Result:
    """Measure how long it takes until every reader has the tensors.

    Parameters
    ----------
    run : Run
        What to measure.
    ranks : int, default 4
        Reader processes for each method.

    Returns
    -------
    Result
        From the producer's call on: ``encode_ns``, ``sent_ns``, and until the last reader has
        ``received_ns``, ``returned_ns`` from decoding, ``touched_ns`` every page; and
        ``pss_nbytes``, what producer and readers hold more than before, shared pages counted once.

    Raises
    ------
    ModelError
        For a name that is none.
    TransportError
        When a process dies or does not answer.
    """
    tell = run.follow or (lambda text, done: None)
    present, missing = available(list(run.methods))
    result = Result(
        scenario="fanout",
        settings={
            "quick": run.quick,
            "rounds": run.rounds,
            "readers": ranks,
            "page_nbytes": PAGE_NBYTES,
            "warmup_rounds": _WARMUP_ROUNDS,
        },
        missing=missing,
    )
    with_dictionary = any(payload(name).dictionary is not None for name in run.payloads)
    present = [
        method for method in present if with_dictionary or not method_class(method).wants_dictionary
    ]
    with Crew() as crew:
        groups = {
            method: Group(crew, method, ranks=ranks, timeout_s=_STARTUP_TIMEOUT_S)
            for method in present
        }
        for number, group in enumerate(groups.values()):
            tell(f"starting {len(groups) * (ranks + 1)} processes", 0.1 * number / len(groups))
            group.wait_ready()
        for number, name in enumerate(run.payloads):
            share = 0.1 + 0.9 * number / len(run.payloads)
            result.cells += _carry(
                name,
                groups,
                rounds=rounds_for(payload(name), rounds=run.rounds, quick=run.quick).rounds,
                tell=tell,
                done=(share, 0.9 / len(run.payloads)),
            )
        for group in groups.values():
            group.end()
    return result


def _carry(
    name: str,
    groups: dict[str, Group],
    *,
    rounds: int,
    tell: Follow,
    done: tuple[float, float],
) -> list[Cell]:
    chosen = payload(name)
    usable = {
        method: group
        for method, group in groups.items()
        if chosen.dictionary is not None or not method_class(method).wants_dictionary
    }
    cells = {method: Cell(payload=name, method=method) for method in usable}
    for method, group in usable.items():
        group.load(method_class(method), chosen)
    for turn in turns(list(usable), rounds=rounds, warmup=_WARMUP_ROUNDS):
        tell(f"{chosen.title}: {turn.name}", done[0] + done[1] * max(0, turn.number) / rounds)
        usable[turn.name].round(turn.number, cells[turn.name], is_recorded=turn.is_recorded)
    for group in usable.values():
        group.unload()
    return list(cells.values())
