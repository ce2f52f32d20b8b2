"""Put into the arena beside one memcpy of the same bytes into the same touched memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import torch

from benchmarks.codec import rounds_for
from benchmarks.payloads import PAYLOADS, payload
from benchmarks.results import Result
from benchmarks.scenarios import Run
from mmformat.arena import Arena, ArenaReader
from mmformat.bench.measure import Cell, Samples, clock_ns, minor_faults, turns, without_collection
from mmformat.bench.payloads import digests_of, stamp, tensors_of
from mmformat.model import MultimodalInputs
from mmformat.shm import ShmArena

__all__ = ["run_put"]


_NOTES: Final = {
    "arena-put": ("Arena.put", "encoded straight into a slot, checked and announced"),
    "memcpy": ("control: numpy.copyto", "into the same touched pages; no checks"),
    "memcpy-slice": ("control: memoryview's assignment", "the same, by the interpreter"),
}
_WARMUP_ROUNDS: Final = 2


def run_put(run: Run) -> Result:
    """Measure ``put_ns`` of ``Arena.put``, of numpy.copyto, and of a memoryview's assignment.

    Each writes the same bytes into the same segment, whose pages were all touched at creation; a
    slot that was released is the next to be used, so all of them write the same pages.

    Parameters
    ----------
    run : Run
        What to measure.
    """
    result = Result(
        scenario="put",
        settings={"quick": run.quick, "rounds": run.rounds, "warmup_rounds": _WARMUP_ROUNDS},
        notes=_NOTES,
    )
    for number, name in enumerate(run.payloads):
        if run.follow is not None:
            run.follow(PAYLOADS[name].title, number / len(run.payloads))
        plan = rounds_for(payload(name), rounds=run.rounds, quick=run.quick)
        result.cells += _measured(name, run.methods, plan.rounds * plan.repeats)
    return result


def _measured(name: str, methods: Sequence[str], rounds: int) -> list[Cell]:
    chosen = payload(name)
    inputs = chosen.make(0)
    transport = ShmArena.create(nbytes=chosen.nbytes + 2**22, ranks=1)
    with Arena(transport) as arena, Arena.attach(arena.name, rank=0) as reader:
        cases: dict[str, Callable[[], int]] = {
            "arena-put": lambda: _put(arena, reader, inputs),
            "memcpy": lambda: _memcpy(transport, inputs, copyto=True),
            "memcpy-slice": lambda: _memcpy(transport, inputs, copyto=False),
        }
        cells = {method: Cell(payload=name, method=method) for method in methods}
        for turn in turns(list(cells), rounds=rounds, warmup=_WARMUP_ROUNDS):
            stamp(inputs, turn.number)
            faults = minor_faults()
            duration_ns = cases[turn.name]()
            faults = minor_faults() - faults
            if turn.is_recorded:
                cells[turn.name].add(put_ns=duration_ns, faults_count=faults)
                rate = Samples("bytes/ns")
                cells[turn.name].metrics.setdefault("rate_bytes/ns", rate).values.append(
                    chosen.nbytes / duration_ns
                )
        is_carried = _is_carried(arena, reader, inputs)
        for cell in cells.values():
            cell.correct = is_carried
            cell.wire_nbytes = chosen.nbytes
    return list(cells.values())


def _put(arena: Arena, reader: ArenaReader, inputs: MultimodalInputs) -> int:
    with without_collection():
        start_ns = clock_ns()
        handle = arena.put(inputs)
        duration_ns = clock_ns() - start_ns
    reader.release(handle)
    return duration_ns


def _memcpy(transport: ShmArena, inputs: MultimodalInputs, *, copyto: bool) -> int:
    tensors: list[Any] = list(tensors_of(inputs))
    raws = [tensor.contiguous().view(torch.uint8).numpy().reshape(-1) for tensor in tensors]
    with transport.reserve(sum(raw.size + 64 for raw in raws)) as slot:
        view = slot.view
        target = np.frombuffer(view, np.uint8)
        position = 0
        with without_collection():
            start_ns = clock_ns()
            for raw in raws:
                if copyto:
                    np.copyto(target[position : position + raw.size], raw)
                else:
                    view[position : position + raw.size] = raw.data
                position += raw.size + -raw.size % 64
            duration_ns = clock_ns() - start_ns
        del target, view
    return duration_ns


def _is_carried(arena: Arena, reader: ArenaReader, inputs: MultimodalInputs) -> bool:
    handle = arena.put(inputs)
    found = digests_of(reader.get(handle))
    return found == digests_of(inputs)
