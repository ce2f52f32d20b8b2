"""Count every operation, in a process whose memory behaves the same at every run."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any, Final

from mmformat.bench.results import Cell, Result, Subject
from mmformat.bench.scenarios import SCENARIOS, Follow
from mmformat.errors import MMFormatError

__all__ = ["count_here", "run_counts"]

_COUNTS: Final = SCENARIOS["counts"]
_TIMEOUT_S: Final = 300
_ENVIRONMENT: Final = {
    # Each allocation of 64 KiB and more is fresh memory, so that a page fault tells of a copy.
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "ARROW_DEFAULT_MEMORY_POOL": "system",
    "NUMPY_MADVISE_HUGEPAGE": "0",
    "OMP_NUM_THREADS": "1",
    "PYTHONHASHSEED": "0",
}


def run_counts(
    *,
    payloads: Sequence[str] = _COUNTS.payloads,
    arms: Sequence[str] = _COUNTS.arms,
    rounds: int | None = None,
    quick: bool = False,
    follow: Follow | None = None,
) -> Result:
    """Count what each operation does; the arms are the operations.

    Parameters
    ----------
    payloads, arms : sequence of str
        Their names.
    rounds : int, optional
        How often each is counted; 3 when omitted. The least of them is judged.
    quick : bool
        Once.
    follow : callable, optional
        Told what is being done.

    Raises
    ------
    MMFormatError
        When the process that counts fails.
    """
    if follow is not None:
        follow("counting", 0.1)
    plan = {"payloads": list(payloads), "arms": list(arms), "rounds": rounds or (1 if quick else 3)}
    done = subprocess.run(
        [sys.executable, "-m", "mmformat.bench.counts.run", json.dumps(plan)],
        env={**os.environ, **_ENVIRONMENT},
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        check=False,
    )
    if done.returncode != 0:
        raise MMFormatError(
            f"expected the counting process to end with 0, got {done.returncode}",
            hint=done.stderr.strip().rpartition("\n")[2] or None,
        )
    result = Result(scenario="counts", settings=plan)
    for told in json.loads(done.stdout):
        cell = Cell(payload=told["payload"], arm=told["arm"])
        for values in told["counts"]:
            cell.add(**values)
        result.cells.append(cell)
        result.notes[told["arm"]] = (told["title"], "")
        result.subjects[told["payload"]] = Subject(**told["subject"])
    if not any("instructions_count" in cell.metrics for cell in result.cells):
        result.missing["instructions"] = "the kernel counts none for this process"
    return result


def count_here(name: str, arms: Sequence[str], *, rounds: int) -> list[dict[str, Any]]:
    """Count in this process, and return a dict for each operation."""
    import torch

    from mmformat.bench.counts.counters import count
    from mmformat.bench.counts.operations import operations
    from mmformat.bench.payloads import payload

    torch.set_num_threads(1)
    chosen = payload(name)
    subject = {"name": name, "title": chosen.title, "nbytes": chosen.nbytes}
    found = []
    with operations(name) as all_of_them:
        gc.collect()
        gc.freeze()  # torch's half a million objects, which every collection would go through
        try:
            for operation in all_of_them:
                if operation.name not in arms:
                    continue
                count(operation.run, operation.after)  # caches fill, modules are imported
                found.append(
                    {
                        "payload": name,
                        "subject": subject,
                        "arm": operation.name,
                        "title": operation.title,
                        "counts": [count(operation.run, operation.after) for _ in range(rounds)],
                    }
                )
        finally:
            gc.unfreeze()
    return found


def _main() -> None:
    plan = json.loads(sys.argv[1])
    found = []
    for name in plan["payloads"]:
        found += count_here(name, plan["arms"], rounds=plan["rounds"])
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    _main()
