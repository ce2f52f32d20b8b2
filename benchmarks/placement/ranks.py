"""Several ranks, each with a device of its own, reading one arena at the same moment."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any, Final

import torch

from benchmarks.placement.one_device import device_facts
from benchmarks.placement.requests import REQUESTS, Request
from benchmarks.placement.ways import features_of
from mmformat.arena import Arena, ArenaReader
from mmformat.bench.crew import Crew
from mmformat.bench.measure import Samples, clock_ns, environment, turns
from mmformat.model import MultimodalInputs
from mmformat.shm import Handle

__all__ = ["run_ranks"]

RANK_WAYS: Final = (
    "pinned",
    "pinned-fresh",
    "arena",
    "arena-dictionary",
    "arena-pageable",
    "broadcast",
    "pinned-row",
    "arena-row",
)
ROW: Final = 8
"""Messages behind each other in the ways that end so; their times are divided by it."""

LEAD_NS: Final = 3_000_000
"""All ranks start at one moment of the clock that they share, this much after being told."""


def run_ranks(
    *,
    counts: Sequence[int] = (1, 2, 4),
    requests: Sequence[str] = ("25.8 MB", "200 MB"),
    rounds: int | None = None,
) -> dict[str, Any]:
    """Measure every way with 1, 2, 4 ranks at once, and check every bit of every run.

    Returns
    -------
    dict
        ``cells`` with ``last_ns``, from the common start until the last rank's device is idle, and
        ``each_ns`` of every rank; ``broadcast`` needs all ranks, and is measured with all alone.
    """
    world = min(max(counts), torch.cuda.device_count())
    cells: list[dict[str, Any]] = []
    for name in requests:
        request = REQUESTS[name]
        with (
            Arena.create(nbytes=(ROW + 1) * request.nbytes + 2**24, ranks=world) as arena,
            Crew() as crew,
        ):
            ends = []
            for number in range(world):
                ours, theirs = crew.pipe()
                store = f"tcp://127.0.0.1:{29500 + list(REQUESTS).index(name)}"
                crew.start(
                    f"rank {number}", _rank, (number, world), arena.name, store, name, theirs
                )
                ends.append(ours)
            for end in ends:
                _answer(end, crew)
            for count in [each for each in counts if each <= world]:
                cells += _cells(request, count, arena, ends, crew, rounds=rounds)
            for end in ends:
                end.send(None)
            for end in ends:
                _answer(end, crew)
    return {
        "scenario": "placement-ranks",
        "environment": environment(),
        "devices": device_facts(),
        "cells": cells,
    }


def _cells(
    request: Request,
    count: int,
    arena: Arena,
    ends: Sequence[Connection],
    crew: Crew,
    *,
    rounds: int | None,
) -> list[dict[str, Any]]:
    names = [name for name in RANK_WAYS if name != "broadcast" or 1 < count == len(ends)]
    last = {name: Samples("ns") for name in names}
    each = {name: Samples("ns") for name in names}
    correct = dict.fromkeys(names, True)
    offers = {encoding: request.make(encoding, seed=5) for encoding in ("plain", "float32")}
    for turn in turns(names, rounds=rounds or request.rounds // 2, warmup=2):
        handles = [
            bytes(arena.put(offers[_encoding(turn.name)], timeout_s=10))
            for _ in range(_length(turn.name))
        ]
        # A rank that fills its own pinned memory first has a nanosecond a byte for it.
        fill_ns = request.nbytes if turn.name == "pinned-fresh" else 0
        start_ns = clock_ns() + LEAD_NS + fill_ns
        for number, end in enumerate(ends):
            end.send((turn.name if number < count else "pass", handles, start_ns))
        answers = [_answer(end, crew) for end in ends][:count]
        if turn.is_recorded:
            last[turn.name].values.append(max(done_ns for done_ns, _ in answers))
            each[turn.name].values += [done_ns for done_ns, _ in answers]
        correct[turn.name] &= all(same for _, same in answers)
        if not arena.wait_released(timeout_s=10):
            raise RuntimeError("expected every rank to release its slot")
    return [
        {
            "request": request.name,
            "float32_nbytes": request.nbytes,
            "ranks": count,
            "way": name,
            "correct": correct[name],
            "last_ns": last[name].to_json(),
            "each_ns": each[name].to_json(),
        }
        for name in names
    ]


def _encoding(way: str) -> str:
    return "float32" if way == "arena-dictionary" else "plain"


def _length(way: str) -> int:
    return ROW if way.endswith("-row") else 1


def _answer(end: Connection, crew: Crew) -> Any:
    while not end.poll(0.2):
        crew.check()
    return end.recv()


def _rank(
    place: tuple[int, int],
    arena: str,
    store: str,
    request_name: str,
    end: Connection,
) -> None:
    from torch import distributed

    number, world = place
    device = torch.device("cuda", number)
    torch.cuda.set_device(device)
    if world > 1:
        distributed.init_process_group(
            "nccl", init_method=store, rank=number, world_size=world, device_id=device
        )
    expected = [
        each.to(device) for each in features_of(REQUESTS[request_name].make("plain", seed=5))
    ]
    pinned = [torch.empty_like(each, device="cpu", pin_memory=True) for each in expected]
    for host, wanted in zip(pinned, expected, strict=True):
        host.copy_(wanted)
    fresh = [each.cpu() for each in expected]
    targets = [torch.empty_like(each) for each in expected]
    with Arena.attach(arena, rank=number, device=device) as rank:
        ways = _ways(rank, number, pinned, targets)
        end.send(rank.placement.registered)
        while (told := end.recv()) is not None:
            name, told_handles, start_ns = told
            handles = [Handle.from_bytes(each) for each in told_handles]
            if name == "pass":
                for handle in handles:
                    rank.release(handle)
                end.send((0, True))
                continue
            if name == "pinned-fresh":
                # As a slot is when its rank gets it: in the caches of the core that wrote it.
                for host, wanted in zip(pinned, fresh, strict=True):
                    host.numpy()[...] = wanted.numpy()
            gc.disable()
            while clock_ns() < start_ns:
                pass
            found = ways[name](handles)
            torch.cuda.synchronize(device)
            done_ns = (clock_ns() - start_ns) / len(handles)
            gc.enable()
            same = all(
                torch.equal(one.view(torch.int32), other.view(torch.int32))
                for one, other in zip(found, expected, strict=True)
            )
            for target in targets:
                target.fill_(0)
            del found
            end.send((done_ns, same))
        if world > 1:
            distributed.destroy_process_group()
    end.send(None)


def _ways(
    rank: ArenaReader,
    number: int,
    pinned: list[torch.Tensor],
    targets: list[torch.Tensor],
) -> dict[str, Callable[[list[Handle]], list[torch.Tensor]]]:
    from torch import distributed

    def get(handles: list[Handle]) -> list[torch.Tensor]:
        return features_of(rank.get(handles[0]))

    def get_row(handles: list[Handle]) -> list[torch.Tensor]:
        rank.prefetch(handles)
        return [features_of(rank.get(handle)) for handle in handles][-1]

    def from_pinned(handles: list[Handle]) -> list[torch.Tensor]:
        for _ in handles:
            for host, target in zip(pinned, targets, strict=True):
                target.copy_(host, non_blocking=True)
        for handle in handles:
            rank.release(handle)
        return targets

    def pageable(handles: list[Handle]) -> list[torch.Tensor]:
        found: MultimodalInputs = rank.get(handles[0], device="cpu")
        return [each.to(targets[0].device) for each in features_of(found)]

    def broadcast(handles: list[Handle]) -> list[torch.Tensor]:
        if number == 0:
            found = features_of(rank.get(handles[0]))
        else:
            rank.release(handles[0])
            found = targets
        for each in found:
            distributed.broadcast(each, src=0)
        return found

    return {
        "pinned": from_pinned,
        "pinned-fresh": from_pinned,
        "pinned-row": from_pinned,
        "arena": get,
        "arena-dictionary": get,
        "arena-row": get_row,
        "arena-pageable": pageable,
        "broadcast": broadcast,
    }
