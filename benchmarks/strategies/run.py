"""Run every way with the same requests, and measure what a server's operator would ask about."""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from typing import Any, Final

import psutil

import mmformat as mm
from benchmarks.placement.one_device import device_facts
from benchmarks.strategies.rank import Device, RankSettings, digest_of, monitor, run_rank
from benchmarks.strategies.tokenizer import Answered, Tokenizer
from benchmarks.strategies.traffic import (
    Payload,
    feature_nbytes,
    materialized,
    requests_of,
)
from benchmarks.strategies.ways import ESTIMATES, WAYS, Way
from mmformat.bench.crew import Crew
from mmformat.bench.measure import Samples, environment, memory
from mmformat.errors import MMFormatError

__all__ = ["run_strategies"]

Follow = Callable[[str, float], None]

PSS_INTERVAL_S: Final = 0.05
_PHASES: Final = 3
"""One request after the other; all at once; all at once with an eye on the memory."""


def run_strategies(
    *,
    tp: int = 4,
    requests: int = 10,
    payload: Payload = "image",
    rounds: int = 3,
    workers: int | None = None,
    device: Device = "cpu",
    ways: Sequence[str] | None = None,
    follow: Follow = lambda _text, _share: None,
) -> dict[str, Any]:
    """Measure the ways beside each other, in fresh processes each round, in turn.

    Parameters
    ----------
    tp : int
        Ranks.
    requests : int
        How many are sent one after the other for the latency, and at once for the throughput.
    payload : {"image", "video", "mixed"}
        25.8 MB of float32 a request; 206 MB; one to three images of three sizes.
    rounds : int
        How often each way is run.
    workers : int, optional
        Threads of the tokenizer's pool; the usable cores, 16 at most, when omitted.
    device : {"cpu", "cuda"}
        Where a rank wants its tensors: on the host, every page touched; or on a GPU, the ranks
        dealt over those of the machine, floats expanded there and the copy complete.
    ways : sequence of str, optional
        Names of the ways to run; all when omitted.
    follow : callable
        Told what is being done, and how much of it, 0 to 1, is.

    Returns
    -------
    dict
        The result's JSON: settings, environment, and for each way every raw sample.

    Raises
    ------
    MMFormatError
        When a rank fails, or a tensor arrives with another bit.
    """
    chosen = [way for way in WAYS if ways is None or way.name in ways]
    # One request to warm up, then other content in every phase: nothing may be there already.
    traffic = requests_of(payload, 1 + _PHASES * requests)
    plain = digest_of(materialized(traffic[0]))
    threads = workers or min(16, len(os.sched_getaffinity(0)))
    cells: dict[str, dict[str, Any]] = {
        way.name: {
            "way": way.name,
            "title": way.title,
            "estimate": asdict(ESTIMATES[way.name]) if way.name in ESTIMATES else None,
            "metrics": {},
        }
        for way in chosen
    }
    for number in range(rounds):
        order = chosen[number % len(chosen) :] + chosen[: number % len(chosen)]
        for position, way in enumerate(order):
            follow(way.title, (number * len(order) + position) / (rounds * len(order)))
            found = _run_way(way, traffic, tp=tp, workers=threads, plain=plain, device=device)
            for name, values in found.items():
                unit = name.rpartition("_")[2]
                samples = cells[way.name]["metrics"].setdefault(name, Samples(unit))
                samples.values.extend(values)
    follow("done", 1.0)
    for cell in cells.values():
        cell["metrics"] = {name: value.to_json() for name, value in cell["metrics"].items()}
    return {
        "mmformat_bench": 1,
        "scenario": "strategies",
        "settings": {
            "tp": tp,
            "requests": requests,
            "payload": payload,
            "rounds": rounds,
            "workers": threads,
            "device": device,
            "feature_nbytes_of_the_first_request": feature_nbytes(materialized(traffic[0])),
        },
        "environment": environment(),
        "devices": device_facts() if device == "cuda" else {},
        "cells": list(cells.values()),
    }


def _run_way(
    way: Way,
    traffic: Sequence[Sequence[str]],
    *,
    tp: int,
    workers: int,
    plain: str,
    device: Device,
) -> dict[str, list[float]]:
    with ExitStack() as stack:
        arena = None
        if way.carrier == "arena":
            nbytes = _arena_nbytes(traffic, way)
            arena = stack.enter_context(mm.Arena.create(nbytes=nbytes, ranks=tp))
        crew = stack.enter_context(Crew())
        tokenizer = Tokenizer(way, ranks=tp, crew=crew, arena=arena, workers=workers)
        stack.callback(tokenizer.close)
        for rank in range(tp):
            settings = RankSettings(
                rank=rank,
                ranks=tp,
                way=way,
                folder=str(crew.folder),
                arena=None if arena is None else arena.name,
                device=device,
            )
            crew.start(f"rank {rank} of {way.name}", run_rank, settings)
        pids = [os.getpid(), *crew.pids]
        tokenizer.wait_ready()
        here, there = crew.pipe()
        addresses = [crew.address(f"heartbeat-{rank}") for rank in range(tp)]
        crew.start("the heartbeat", monitor, addresses, there)
        stack.callback(here.send, "quit")
        here.recv()
        _check(tokenizer.serve(traffic[:1], digest=True), plain, tp)
        phases = [traffic[1 + at :: _PHASES] for at in range(_PHASES)]
        if way.repeated:
            phases = [phases[0]] * _PHASES
            tokenizer.serve(phases[0])
        return _measure(tokenizer, phases, pids, here)


def _measure(
    tokenizer: Tokenizer,
    phases: Sequence[Sequence[Sequence[str]]],
    pids: Sequence[int],
    heartbeat: Any,
) -> dict[str, list[float]]:
    alone, together, watched = phases
    latencies = []
    for request in alone:
        phase = tokenizer.serve([request])
        latencies += _latencies_ms(phase)
    gc.collect()
    heartbeat.send("start")
    before = _counts(tokenizer, pids)
    phase = tokenizer.serve(together)
    after = _counts(tokenizer, pids)
    heartbeat.send("stop")
    silences: list[list[float]] = heartbeat.recv()
    duration_s = (max(phase.ready_ns.values()) - phase.started_ns) / 1e9
    count = len(together)
    peak = _peak_pss(tokenizer, watched, pids)
    return {
        "latency_ms": latencies,
        "concurrent_ms": [
            (ready - phase.started_ns) / 1e6 for ready in sorted(phase.ready_ns.values())
        ],
        "throughput_per_s": [count / duration_s],
        "cpu_ms": [(after["cpu_s"] - before["cpu_s"]) * 1000 / count],
        "cpu_use_share": [
            (after["cpu_s"] - before["cpu_s"]) / duration_s / len(os.sched_getaffinity(0))
        ],
        "blocked_longest_ms": [max((max(each, default=0) for each in silences), default=0) * 1000],
        "blocked_total_ms": [max(map(sum, silences), default=0) * 1000],
        "materializations_count": [
            (after["materializations"] - before["materializations"]) / count
        ],
        "moved_nbytes": [(after["moved_nbytes"] - before["moved_nbytes"]) / count],
        "peak_pss_nbytes": [float(peak)],
    }


def _latencies_ms(phase: Answered) -> list[float]:
    return [(phase.ready_ns[number] - sent) / 1e6 for number, sent in phase.sent_ns.items()]


def _counts(tokenizer: Tokenizer, pids: Sequence[int]) -> dict[str, float]:
    cpu_s = 0.0
    for pid in pids:
        times = psutil.Process(pid).cpu_times()
        cpu_s += times.user + times.system
    ranks = tokenizer.rank_counts.values()
    return {
        "cpu_s": cpu_s,
        "materializations": tokenizer.materializations
        + sum(counts["materializations"] for counts in ranks),
        "moved_nbytes": tokenizer.sent_nbytes
        + tokenizer.written_nbytes
        + sum(counts["broadcast_nbytes"] for counts in ranks),
    }


def _peak_pss(tokenizer: Tokenizer, traffic: Sequence[Sequence[str]], pids: Sequence[int]) -> int:
    # A pass of its own: reading the memory of five processes would disturb the clock.
    peak = 0
    done = threading.Event()

    def sample() -> None:
        nonlocal peak
        while not done.is_set():
            peak = max(peak, sum(memory(pid).pss_nbytes for pid in pids))
            time.sleep(PSS_INTERVAL_S)

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        tokenizer.serve(traffic)
    finally:
        done.set()
        sampler.join()
    return peak


def _check(phase: Answered, plain: str, tp: int) -> None:
    for digests in phase.digests.values():
        if digests != {plain}:
            raise MMFormatError(
                f"expected {tp} ranks with the materialized tensors, got {len(digests)} different"
            )


def _arena_nbytes(traffic: Sequence[Sequence[str]], way: Way) -> int:
    # Room for every request at once: none waits for another's release.
    total = sum(
        feature_nbytes(materialized(images, dictionary=way.dictionary)) + 2**16 * len(images)
        for images in traffic
    )
    return int(total * 1.1) + 2**22
