"""The arena's put, get and release against those of another commit, in turns in one run.

    python -m benchmarks.arena_latency --against 3a384c8
    python -m benchmarks.arena_latency --against ../other-checkout --json latency.json

Both trees run in fresh processes at the same time, and take turns: a block of rounds here, a block
there, so that what else the machine does falls on both. Two levels are measured: bytes (reserve,
copy, seal; map; drop, release) and, where both trees have it, inputs (put; get; drop).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[1]
SIZES: Final = {"0.6 MB": 602_112, "25.8 MB": 25_758_720}
STEPS: Final = ("put", "get", "read", "drop", "release")
"""Read looks at every cache line of what get returned; drop lets the last view go, which releases
the slot; release is that of a slot which was never looked at."""

LINE_NBYTES: Final = 64


def _rounds_of_bytes(nbytes: int) -> Callable[[], dict[str, int]]:
    import time

    import numpy as np

    from mmformat.shm import ShmArena, ShmReader

    content = np.random.default_rng(0).integers(0, 256, nbytes, np.uint8)
    arena = ShmArena.create(nbytes=4 * nbytes, ranks=1)
    rank = ShmReader.attach(arena.name, rank=0)
    expected = int(content[::LINE_NBYTES].sum(dtype=np.uint64))
    now = time.perf_counter_ns

    def put() -> Any:
        with arena.reserve(nbytes) as slot:
            target = np.frombuffer(slot.view, np.uint8)[:nbytes]
            target[:] = content
            del target
            return slot.seal(nbytes)

    def one_round() -> dict[str, int]:
        start = now()
        handle = put()
        sealed = now()
        view = np.frombuffer(rank.map(handle), np.uint8)
        mapped = now()
        total = int(view[::LINE_NBYTES].sum(dtype=np.uint64))
        looked = now()
        del view
        dropped = now()
        if total != expected:
            raise SystemExit("the rank read other bytes than were put")
        skipped = put()
        before = now()
        rank.release(skipped)
        released = now()
        return {
            "put": sealed - start,
            "get": mapped - sealed,
            "read": looked - mapped,
            "drop": dropped - looked,
            "release": released - before,
        }

    return one_round


def _rounds_of_inputs(nbytes: int) -> Callable[[], dict[str, int]]:
    import time

    import numpy as np

    import mmformat as mm

    content = np.random.default_rng(0).integers(0, 256, nbytes, np.uint8)
    inputs = mm.MultimodalInputs(
        items=[mm.MultimodalDataItem(modality=mm.Modality.IMAGE, feature=content)]
    )
    arena = mm.Arena.create(nbytes=4 * nbytes + 2**20, ranks=1)
    rank = mm.Arena.attach(arena.name, rank=0)
    expected = int(content[::LINE_NBYTES].sum(dtype=np.uint64))
    now = time.perf_counter_ns

    def one_round() -> dict[str, int]:
        start = now()
        handle = arena.put(inputs)
        sealed = now()
        found = rank.get(handle)
        mapped = now()
        view: Any = found.items[0].feature
        total = int(view[::LINE_NBYTES].sum(dtype=np.uint64))
        looked = now()
        del found, view
        dropped = now()
        if total != expected:
            raise SystemExit("the rank read other bytes than were put")
        skipped = arena.put(inputs)
        before = now()
        rank.release(skipped)
        released = now()
        return {
            "put": sealed - start,
            "get": mapped - sealed,
            "read": looked - mapped,
            "drop": dropped - looked,
            "release": released - before,
        }

    return one_round


LEVELS: Final = {"bytes": _rounds_of_bytes, "inputs": _rounds_of_inputs}


def _serve(level: str, nbytes: int) -> None:
    """Be one tree's process: a number of rounds comes in, their samples go out."""
    try:
        one_round = LEVELS[level](nbytes)
    except (ImportError, AttributeError) as error:
        print(json.dumps({"absent": str(error)}), flush=True)
        return
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        print(json.dumps([one_round() for _ in range(int(line))]), flush=True)


class _Side:
    """One tree's process."""

    def __init__(self, tree: Path, level: str, nbytes: int) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--serve", level, str(nbytes)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=tree,
            env={**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"},
        )
        self.absent: str | None = self._answer().get("absent")

    def rounds(self, count: int) -> list[dict[str, int]]:
        """Run so many rounds and return the nanoseconds of each step."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{count}\n")
        self.process.stdin.flush()
        found: list[dict[str, int]] = self._answer()
        return found

    def close(self) -> None:
        """End the process; its arena goes with it."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait(60)

    def _answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"a process ended with status {self.process.wait(60)}")
        return json.loads(line)


@contextmanager
def _tree_of(against: str) -> Iterator[tuple[Path, str]]:
    """Yield a folder with the other tree, and what it is called."""
    if (Path(against) / "mmformat").is_dir():
        yield Path(against).resolve(), against
        return
    git = ["git", "-C", str(ROOT)]
    commit = subprocess.run(
        [*git, "rev-parse", "--short", f"{against}^{{commit}}"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    with tempfile.TemporaryDirectory() as directory:
        tree = Path(directory) / commit
        subprocess.run([*git, "worktree", "add", "-q", "--detach", tree, commit], check=True)
        try:
            yield tree, commit
        finally:
            subprocess.run([*git, "worktree", "remove", "--force", tree], check=True)


def _measure(
    trees: dict[str, Path], level: str, nbytes: int, *, processes: int, blocks: int, rounds: int
) -> dict[str, dict[str, list[int]]] | str:
    samples: dict[str, dict[str, list[int]]] = {
        name: {step: [] for step in STEPS} for name in trees
    }
    for number in range(processes):
        sides: dict[str, _Side] = {}
        try:
            for name, tree in trees.items():
                sides[name] = _Side(tree, level, nbytes)
                if (absent := sides[name].absent) is not None:
                    return f"{name}: {absent}"
            for side in sides.values():
                side.rounds(rounds)  # warm
            for block in range(blocks):
                order = list(sides)
                if (number + block) % 2:
                    order.reverse()
                for name in order:
                    for one in sides[name].rounds(rounds):
                        for step in STEPS:
                            samples[name][step].append(one[step])
        finally:
            for side in sides.values():
                side.close()
    return samples


def main() -> None:
    """Measure, print a table, and write the raw samples where they are wanted."""
    from mmformat.bench.measure import Samples, environment

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--against", required=True, metavar="COMMIT|FOLDER")
    parser.add_argument("--processes", type=int, default=5, help="fresh pairs of processes")
    parser.add_argument("--blocks", type=int, default=6, help="turns of each pair")
    parser.add_argument("--rounds", type=int, default=10, help="rounds of a turn")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the raw samples")
    options = parser.parse_args()
    results: list[dict[str, Any]] = []
    with _tree_of(options.against) as (tree, other):
        trees = {"here": ROOT, other: tree}
        for level in LEVELS:
            for label, nbytes in SIZES.items():
                found = _measure(
                    trees,
                    level,
                    nbytes,
                    processes=options.processes,
                    blocks=options.blocks,
                    rounds=options.rounds,
                )
                if isinstance(found, str):
                    print(f"{level}, {label}: left out, {found}")
                    continue
                for step in STEPS:
                    ours, theirs = (
                        Samples("ns", [float(each) for each in found[name][step]]) for name in trees
                    )
                    ratio = ours.median / theirs.median
                    results.append(
                        {
                            "level": level,
                            "nbytes": nbytes,
                            "step": step,
                            "ratio": ratio,
                            "here": ours.to_json(),
                            "there": theirs.to_json(),
                        }
                    )
                    print(
                        f"{level:6} {label:>8} {step:8} here {ours.median / 1e3:9.1f} us "
                        f"(IQR {ours.iqr / 1e3:7.1f})  {other} {theirs.median / 1e3:9.1f} us "
                        f"(IQR {theirs.iqr / 1e3:7.1f})  n {ours.n}  ratio {ratio:.2f}"
                    )
    if options.json is not None:
        document = {
            "command": f"python -m benchmarks.arena_latency --against {options.against}",
            "against": other,
            "environment": environment(),
            "results": results,
        }
        options.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        # The script's own folder would shadow nothing, but the tree must come first.
        sys.path[0] = os.environ["PYTHONPATH"]
        _serve(sys.argv[2], int(sys.argv[3]))
    else:
        main()
