"""Tensors that are on a GPU already: the pool, a plain peer copy, and the way through the host."""

from __future__ import annotations

from dataclasses import replace
from multiprocessing.connection import Connection
from typing import Any, Final

import torch

from benchmarks.placement.one_device import device_facts
from benchmarks.placement.requests import REQUESTS
from benchmarks.placement.ways import features_of
from mmformat.arena import Arena
from mmformat.bench.crew import Crew
from mmformat.bench.measure import Samples, clock_ns, environment, turns
from mmformat.cuda.device_pool import DevicePool, DevicePoolReader
from mmformat.model import MultimodalInputs

__all__ = ["run_pool"]

POOL_WAYS: Final = ("peer-copy", "pool", "host")


def run_pool(
    *, rounds: int = 20, requests: tuple[str, ...] = ("25.8 MB", "200 MB")
) -> dict[str, Any]:
    """Measure from the producer's tensors to a rank's, on the next device or on the same one.

    Returns
    -------
    dict
        ``cells`` with ``done_ns`` from before the producer's part until the rank's device is idle,
        and ``get_ns``, the rank's part alone. ``peer-copy`` is torch's own copy in one process.
    """
    other = 1 if torch.cuda.device_count() > 1 else 0
    cells = []
    for name in requests:
        request = REQUESTS[name]
        inputs = request.make("plain", seed=5)
        for item in inputs.items:
            feature: Any = item.feature
            item.feature = feature.to("cuda:0")
        plain: MultimodalInputs = inputs
        target = [torch.empty_like(each, device=f"cuda:{other}") for each in features_of(plain)]
        samples = {way: (Samples("ns"), Samples("ns")) for way in POOL_WAYS}
        correct = dict.fromkeys(POOL_WAYS, True)
        with (
            DevicePool(nbytes=request.nbytes + 2**22, ranks=1, device="cuda:0") as pool,
            Arena.create(nbytes=request.nbytes + 2**24, ranks=1) as arena,
            Crew() as crew,
        ):
            ours, theirs = crew.pipe()
            crew.start("rank", _rank, pool.name, arena.name, other, name, theirs)
            _answer(ours, crew)
            for turn in turns(list(POOL_WAYS), rounds=rounds, warmup=3):
                _synchronize()
                start_ns = clock_ns()
                if turn.name == "peer-copy":
                    for source, room in zip(features_of(plain), target, strict=True):
                        room.copy_(source, non_blocking=True)
                    _synchronize()
                    done_ns = get_ns = clock_ns() - start_ns
                    same = True
                else:
                    if turn.name == "pool":
                        handle = bytes(pool.put(plain, timeout_s=10))
                    else:
                        handle = bytes(arena.put(_on_host(plain), timeout_s=10))
                    ours.send((turn.name, handle))
                    begun_ns, ended_ns, same = _answer(ours, crew)
                    done_ns, get_ns = ended_ns - start_ns, ended_ns - begun_ns
                if turn.is_recorded:
                    samples[turn.name][0].values.append(done_ns)
                    samples[turn.name][1].values.append(get_ns)
                correct[turn.name] &= same
            ours.send(None)
            _answer(ours, crew)
        cells += [
            {
                "request": name,
                "nbytes": request.nbytes,
                "way": way,
                "to": f"cuda:{other}",
                "correct": correct[way],
                "done_ns": samples[way][0].to_json(),
                "get_ns": samples[way][1].to_json(),
            }
            for way in POOL_WAYS
        ]
    return {
        "scenario": "pool",
        "environment": environment(),
        "devices": device_facts(),
        "cells": cells,
    }


def _synchronize() -> None:
    for number in range(torch.cuda.device_count()):
        torch.cuda.synchronize(number)


def _on_host(inputs: MultimodalInputs) -> MultimodalInputs:
    items = []
    for item in inputs.items:
        feature: Any = item.feature
        items.append(replace(item, feature=feature.cpu()))
    return MultimodalInputs(items=items, request_data=inputs.request_data)


def _answer(end: Connection, crew: Crew) -> Any:
    while not end.poll(0.2):
        crew.check()
    return end.recv()


def _rank(pool: str, arena: str, number: int, request: str, end: Connection) -> None:
    device = torch.device("cuda", number)
    torch.cuda.set_device(device)
    expected = [each.to(device) for each in features_of(REQUESTS[request].make("plain", seed=5))]
    with (
        DevicePoolReader(pool, rank=0, device=device) as ours,
        Arena.attach(arena, rank=0, device=device) as rank,
    ):
        end.send("attached")
        while (told := end.recv()) is not None:
            name, handle = told
            begun_ns = clock_ns()
            found = features_of(ours.get(handle) if name == "pool" else rank.get(handle))
            torch.cuda.synchronize(device)
            ended_ns = clock_ns()
            same = all(
                torch.equal(one.view(torch.int32), other.view(torch.int32))
                for one, other in zip(found, expected, strict=True)
            )
            del found
            end.send((begun_ns, ended_ns, same))
    end.send(None)
