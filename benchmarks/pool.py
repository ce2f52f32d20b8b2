"""How many times faster two workers are than one: 32 photographs, both kinds, interleaved.

Run ``python -m benchmarks.pool [--rounds N] [--photo NAME]``. On a shared machine others take part
of the two cores: each round says how many CPU seconds were ours beside the seconds that passed, and
the lowest of each arm is the least disturbed. Every run checks that all results are those of
``mm.materialize``.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

import mmformat as mm
from mmformat.media.processors import processor_from_config

PHOTOS = Path(mm.__file__).parent / "bench" / "photos"
IMAGES = 32
WORKERS = (1, 2)


def requests_of(data: bytes) -> Iterator[mm.MultimodalInputs]:
    for _ in range(IMAGES):
        item = mm.MultimodalDataItem(modality=mm.Modality.IMAGE, feature=mm.Source(data))
        yield mm.MultimodalInputs(items=[item])


def cpu_seconds() -> float:
    """Return what this process and its workers have used so far."""
    me = psutil.Process()
    return sum(sum(process.cpu_times()[:2]) for process in [me, *me.children(recursive=True)])


def measure(kind: str, data: bytes, rounds: int) -> dict[str, object]:
    processor = processor_from_config({"image_processor_type": "Qwen2VLImageProcessor"})
    expected = mm.materialize(next(requests_of(data)), processor).items[0].identity
    pools = {n: mm.MaterializePool(n, kind, processor=processor) for n in WORKERS}
    wall_s: dict[int, list[float]] = {n: [] for n in WORKERS}
    cpu_s: dict[int, list[float]] = {n: [] for n in WORKERS}
    for number in range(rounds + 1):
        for workers in WORKERS if number % 2 else WORKERS[::-1]:
            cpu, start = cpu_seconds(), time.perf_counter()
            results = list(pools[workers].map(requests_of(data)))
            elapsed = time.perf_counter() - start
            if {result.items[0].identity for result in results} != {expected}:
                raise RuntimeError("a result differs from mm.materialize")
            if number:  # the first round starts the workers and warms their caches
                wall_s[workers].append(round(elapsed, 4))
                cpu_s[workers].append(round(cpu_seconds() - cpu, 4))
    for pool in pools.values():
        pool.close()
    ratios = [one / two for one, two in zip(wall_s[1], wall_s[2], strict=True)]
    return {
        "kind": kind,
        "images": IMAGES,
        "wall_s": wall_s,
        "cpu_s": cpu_s,
        "ratios": [round(ratio, 2) for ratio in ratios],
        "median_ratio": round(statistics.median(ratios), 2),
        "ratio_of_lowest": round(min(wall_s[1]) / min(wall_s[2]), 2),
        "load": os.getloadavg()[0],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--photo", default="hubble-1000x872.jpg")
    arguments = parser.parse_args()
    data = (PHOTOS / arguments.photo).read_bytes()
    for kind in ("thread", "process"):
        print(json.dumps(measure(kind, data, arguments.rounds)))


if __name__ == "__main__":
    main()
