"""Many rounds through one arena with real ranks: memory, descriptors and /dev/shm stay flat.

``make soak`` runs 10,000 rounds and prints the figures; `make test` a tenth of them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil

import mmformat as mm

ROUNDS = int(os.environ.get("MMFORMAT_SOAK_ROUNDS", "1000"))
RANKS = 2

RANK = """
import gc, json, os, sys
import psutil
import mmformat as mm

name, number = sys.argv[1], int(sys.argv[2])
process = psutil.Process()

def usage():
    gc.collect()
    return [process.memory_info().rss, process.num_fds()]

with mm.Arena.attach(name, rank=number) as rank:
    for line in sys.stdin:
        if line == "usage\\n":
            print(json.dumps(usage()), flush=True)
            continue
        out = rank.get(bytes.fromhex(line))
        total = int(out.items[0].feature.sum(dtype="uint64"))
        del out
        print(total, flush=True)
"""


def segments() -> list[str]:
    """Return the names of this process's segments."""
    return sorted(path.name for path in Path("/dev/shm").glob(f"mmf-*-{os.getpid()}-*"))


def test_rounds_leave_memory_descriptors_and_shm_flat() -> None:
    process = psutil.Process()
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    generator = np.random.default_rng(0)
    with mm.Arena.create(nbytes=2**24, ranks=RANKS) as arena:
        ranks = [
            subprocess.Popen(
                [sys.executable, "-c", RANK, arena.name, str(number)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env=environment,
            )
            for number in range(RANKS)
        ]
        try:

            def ask(text: str) -> list[object]:
                for rank in ranks:
                    rank.stdin.write(text + "\n")
                    rank.stdin.flush()
                return [json.loads(rank.stdout.readline()) for rank in ranks]

            def usage() -> list[list[int]]:
                mine = [process.memory_info().rss, process.num_fds()]
                return [mine, *ask("usage")]

            shm = segments()
            marks = []
            for number in range(ROUNDS):
                # Sizes differ, so that the allocator has holes to lose.
                size = int(generator.integers(1, 400_000))
                feature = generator.integers(0, 255, size, np.uint8)
                item = mm.MultimodalDataItem(modality="IMAGE", feature=feature)
                handle = arena.put(mm.MultimodalInputs(items=[item]), timeout_s=5)
                want = int(feature.sum(dtype=np.uint64))
                assert ask(bytes(handle).hex()) == [want] * RANKS
                if number in (max(600, ROUNDS // 10), ROUNDS - 1):
                    marks.append(usage())
            assert arena.wait_released(timeout_s=5)
            assert arena.stats().free_nbytes == 2**24
            assert segments() == shm
        finally:
            for rank in ranks:
                rank.stdin.close()
                rank.wait(10)
                rank.stdout.close()
    early, late = marks
    print(json.dumps({"rounds": ROUNDS, "rss_and_fds_early": early, "late": late}))
    for before, after in zip(early, late, strict=True):
        # What is remembered of 512 structures is there by now; the rest may add next to nothing.
        assert after[0] - before[0] < 2**20 * (1 + ROUNDS / 10_000)
        assert after[1] == before[1]
