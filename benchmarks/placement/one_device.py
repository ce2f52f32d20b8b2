"""One rank and its device: milliseconds from the handle to the tensors, way beside way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from benchmarks.placement.requests import REQUESTS, Request
from benchmarks.placement.ways import WAYS, Way, features_of, make_way
from mmformat.arena import Arena
from mmformat.bench.measure import Samples, clock_ns, environment, turns, without_collection

__all__ = ["device_facts", "run_one_device"]


def device_facts() -> dict[str, Any]:
    """Return what the devices of this machine are."""
    return {
        "names": [torch.cuda.get_device_name(each) for each in range(torch.cuda.device_count())],
        "cuda": torch.version.cuda,
        "torch": torch.__version__,
    }


def run_one_device(
    *,
    requests: Sequence[str] = tuple(REQUESTS),
    ways: Sequence[str] = tuple(WAYS),
    device: str = "cuda:0",
    rounds: int | None = None,
) -> dict[str, Any]:
    """Measure every way with every request, interleaved, and check every bit of every run.

    Returns
    -------
    dict
        ``cells``: ``done_ns`` from the handle until the device is idle, ``returned_ns`` until
        Python goes on. ``transfers``: the bare copies by CUDA's own clock, and many in a row.
    """
    target = torch.device(device)
    torch.cuda.set_device(target)
    chosen = [REQUESTS[name] for name in requests]
    return {
        "scenario": "placement",
        "environment": environment(),
        "devices": device_facts(),
        "cells": [cell for each in chosen for cell in _cells(each, ways, target, rounds)],
        "transfers": [cell for each in chosen for cell in _transfers(each, target)],
    }


def _cells(
    request: Request, names: Sequence[str], device: torch.device, rounds: int | None
) -> list[dict[str, Any]]:
    opened: dict[str, Way] = {}
    samples = {name: (Samples("ns"), Samples("ns")) for name in names}
    correct = dict.fromkeys(names, True)
    try:
        for name in names:
            opened[name] = make_way(name, device)
            opened[name].open(request.nbytes)
        made = {
            seed: {each: request.make(each, seed=seed) for each in _encodings(opened)}
            for seed in range(2)
        }
        for turn in turns(list(names), rounds=rounds or request.rounds, warmup=2):
            way = opened[turn.name]
            # Two contents in turn: a way that keeps what it had is found out.
            inputs = made[turn.number % 2]
            way.offer(inputs[way.encoding])
            torch.cuda.synchronize(device)
            with without_collection():
                start_ns = clock_ns()
                found = way.fetch()
                returned_ns = clock_ns()
                torch.cuda.synchronize(device)
                done_ns = clock_ns()
            if turn.is_recorded:
                samples[turn.name][0].values.append(done_ns - start_ns)
                samples[turn.name][1].values.append(returned_ns - start_ns)
            plain = "plain-bfloat16" if way.encoding.endswith("bfloat16") else "plain"
            correct[turn.name] &= _same(found, features_of(inputs[plain]))
            del found
            way.settle()
    finally:
        for way in opened.values():
            way.close()
    return [
        {
            "request": request.name,
            "float32_nbytes": request.nbytes,
            "way": name,
            "title": opened[name].title,
            "encoding": opened[name].encoding,
            "correct": correct[name],
            "done_ns": samples[name][0].to_json(),
            "returned_ns": samples[name][1].to_json(),
        }
        for name in names
    ]


def _encodings(ways: dict[str, Way]) -> set[str]:
    found = {way.encoding for way in ways.values()}
    return found | {"plain"} | ({"plain-bfloat16"} if "bfloat16" in found else set())


def _same(found: Sequence[torch.Tensor], expected: Sequence[torch.Tensor]) -> bool:
    return all(
        one.dtype == other.dtype
        and one.shape == other.shape
        and torch.equal(
            one.reshape(-1).view(torch.uint8), other.reshape(-1).view(torch.uint8).to(one.device)
        )
        for one, other in zip(found, expected, strict=True)
    )


def _transfers(request: Request, device: torch.device) -> list[dict[str, Any]]:
    """Time the bare copies by events, and messages behind each other by the wall clock."""
    count = 8
    offers = {name: request.make(each, seed=1) for name, each in _OFFERED.items()}
    samples = {name: Samples("ns") for name in _TRANSFERS}
    with (
        Arena.create(nbytes=(count + 1) * request.nbytes + 2**24, ranks=1) as arena,
        Arena.attach(arena.name, rank=0, device=device) as rank,
    ):
        memory = rank._open_on(device)._registration
        if memory is None or memory.tensor is None:
            raise RuntimeError("expected a pinned arena")
        pinned = torch.empty(request.nbytes, dtype=torch.uint8, pin_memory=True)
        pinned.copy_(memory.tensor[: request.nbytes])
        target = torch.empty(request.nbytes, dtype=torch.uint8, device=device)
        sources = {"pinned": pinned, "arena": memory.tensor[: request.nbytes]}
        for turn in turns(list(sources), rounds=request.rounds, warmup=2):
            duration_ns = _device_ns(target, sources[turn.name])
            if turn.is_recorded:
                samples[f"{turn.name}-copy"].values.append(duration_ns)
        for turn in turns(list(offers), rounds=8, warmup=2):
            handles = [arena.put(offers[turn.name], timeout_s=10) for _ in range(count)]
            torch.cuda.synchronize(device)
            start_ns = clock_ns()
            if turn.name != "pinned-row":
                rank.prefetch(handles)
                found = [rank.get(handle) for handle in handles]
                torch.cuda.synchronize(device)
                duration_ns = clock_ns() - start_ns
                del found
            else:
                for _ in handles:
                    target.copy_(pinned, non_blocking=True)
                torch.cuda.synchronize(device)
                duration_ns = clock_ns() - start_ns
                for handle in handles:
                    rank.release(handle)
            if turn.is_recorded:
                samples[turn.name].values.append(duration_ns / count)
    return [
        {
            "request": request.name,
            "nbytes": request.nbytes,
            "transfer": name,
            "title": title,
            "ns": samples[name].to_json(),
        }
        for name, title in _TRANSFERS.items()
    ]


_TRANSFERS = {
    "pinned-copy": "bare copy from pinned memory, CUDA events",
    "arena-copy": "bare copy from the pinned arena, CUDA events",
    "pinned-row": "eight bare copies in a row, each",
    "arena-row": "eight messages prefetched, each",
    "codes-row": "eight messages prefetched, dictionary to float32, each",
    "half-codes-row": "eight messages prefetched, dictionary to bfloat16, each",
}
_OFFERED = {
    "pinned-row": "plain",
    "arena-row": "plain",
    "codes-row": "float32",
    "half-codes-row": "bfloat16",
}


def _device_ns(target: torch.Tensor, source: torch.Tensor) -> float:
    cuda: Any = torch.cuda
    start, end = cuda.Event(enable_timing=True), cuda.Event(enable_timing=True)
    torch.cuda.synchronize(target.device)
    start.record()
    target.copy_(source, non_blocking=True)
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) * 1e6
