"""Time the conversion of old pickles against pickle.loads with the engine's real classes.

    In an SGLang environment: python -m benchmarks.engines.legacy FOLDER [--out FILE]

FOLDER holds pickles of that version. Each file is read by ``pickle.load``, by the converter with
its sandbox, and without, in turn. Memory is the peak of this process and its sandbox over what
they held before, in PSS, for large files that this script writes, in a fresh process each.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import pickle
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmformat.bench.measure import clock_ns, environment, memory, turns, without_collection
from mmformat.legacy import convert_all, sandbox
from tests.integration.engines.real import module

SMALL_NBYTES = 65_536
PICKLE, ISOLATED, IN_PROCESS = "pickle.load", "convert, isolated", "convert, in process"
PEAKS = {"torch": (2, 4), "numpy": (2, 4)}


def load(path: Path) -> Any:
    with path.open("rb") as file:
        return pickle.load(file)


WAYS: dict[str, Callable[[Path], Any]] = {
    PICKLE: load,
    ISOLATED: convert_all,
    IN_PROCESS: lambda path: convert_all(path, isolated=False),
}


def times_of(path: Path, *, rounds: int) -> dict[str, list[int]] | None:
    """Return nanoseconds of each way, or None where one of them refuses the file."""
    found: dict[str, list[int]] = {way: [] for way in WAYS}
    for turn in turns(list(WAYS), rounds=rounds, warmup=2):
        try:
            with without_collection():
                start_ns = clock_ns()
                made = WAYS[turn.name](path)
                duration_ns = clock_ns() - start_ns
            del made
        except Exception:
            return None
        if turn.is_recorded:
            found[turn.name].append(duration_ns)
    return found


def peak_of(path: Path, way: str) -> dict[str, float]:
    """Return the most that one conversion takes, as a multiple of the file; in a fresh process."""
    script = f"from benchmarks.engines.legacy import peak; peak({os.fspath(path)!r}, {way!r})"
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, check=True
    )
    told: dict[str, float] = json.loads(ran.stdout)
    return told


def peak(path: str, way: str) -> None:
    import torch

    torch.zeros(3)
    if way != PICKLE:
        with tempfile.TemporaryDirectory() as folder:
            warm = Path(folder) / "warm.pkl"
            warm.write_bytes(pickle.dumps({"n": 1}))
            WAYS[way](warm)
    gc.collect()
    pids = [os.getpid(), *(child.process.pid for child in sandbox._POOL._idle)]

    def held() -> int:
        return sum(memory(pid).pss_nbytes for pid in pids)

    before, most, over = held(), 0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not over.is_set():
            most = max(most, held())
            time.sleep(0.001)

    watcher = threading.Thread(target=watch)
    watcher.start()
    start_ns = clock_ns()
    made = WAYS[way](Path(path))
    duration_ns = clock_ns() - start_ns
    over.set()
    watcher.join()
    del made
    nbytes = Path(path).stat().st_size
    print(json.dumps({"extra": (most - before) / nbytes, "ms": duration_ns / 1e6}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    module("sglang.srt.managers.schedule_batch")
    module("sglang.srt.managers.mm_utils")
    module("sglang.srt.managers.io_struct")
    import torch

    torch.set_num_threads(1)
    files = {}
    for path in sorted(arguments.folder.glob("*.pkl")):
        found = times_of(path, rounds=arguments.rounds)
        if found is not None:
            files[path.name] = {"nbytes": path.stat().st_size, "ns": found}
    every = list(files.values())
    small = [file for file in every if file["nbytes"] < SMALL_NBYTES]
    for title, chosen in ((f"files under {SMALL_NBYTES} bytes", small), ("all files", every)):
        sums = {
            way: sum(statistics.median(each["ns"][way]) for each in chosen) / 1e6 for way in WAYS
        }
        print(f"{title}: {len(chosen)}")
        for way, value in sums.items():
            print(f"  {way:22s} {value:8.2f} ms in all, {value / sums[PICKLE]:.2f} of pickle.load")
    peaks = {}
    with tempfile.TemporaryDirectory() as folder:
        tensor = torch.randn(5476 * 4, 1176)
        for library, protocols in PEAKS.items():
            value = tensor if library == "torch" else tensor.numpy()
            for protocol in protocols:
                path = Path(folder) / f"{library}.p{protocol}.pkl"
                path.write_bytes(pickle.dumps({"pixel_values": value}, protocol=protocol))
                for way in WAYS:
                    told = peaks[f"{path.stem}, {way}"] = peak_of(path, way)
                    print(f"  {path.stem}, {way:22s} extra memory {told['extra']:.2f} of the file, "
                          f"{told['ms']:.0f} ms")  # fmt: skip
                path.unlink()
    if arguments.out:
        content = {"environment": environment(), "files": files, "peaks": peaks}
        arguments.out.write_text(json.dumps(content) + "\n")


if __name__ == "__main__":
    main()
