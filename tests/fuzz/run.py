"""Fuzz one target with atheris: ``python -m tests.fuzz.run decode --seconds 60``."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import resource
import sys
import time
import traceback
from pathlib import Path
from typing import Any

HIGH_WATER_NBYTES = 96 * 2**20
"""More than the limits of every target allow: one input that costs this much is a finding."""
WARM_UP = 400


class Watched:
    """Check inputs, keep what must not have happened, and go on."""

    def __init__(self, target: Any, folder: Path) -> None:
        self.target = target
        self.findings = folder / "findings"
        self.stats = folder / "stats" / f"{target.name}-{os.getpid()}.json"
        for path in (self.findings, self.stats.parent):
            path.mkdir(parents=True, exist_ok=True)
        self.executions = self.found = 0
        self.started_s = self.written_s = time.monotonic()
        self.high_nbytes = 0

    def __call__(self, data: bytes) -> None:
        """Check one input."""
        self.high_nbytes = max(self.high_nbytes, self._peak_nbytes())  # the mutation's too
        try:
            self.target.check(data)
        except Exception as error:
            self.keep(data, error)
        self.executions += 1
        nbytes = self._peak_nbytes()
        if nbytes > self.high_nbytes + HIGH_WATER_NBYTES and self.executions > WARM_UP:
            grown = nbytes - self.high_nbytes
            self.keep(data, MemoryError(f"{grown:,} bytes for one input"))
        self.high_nbytes = max(nbytes, self.high_nbytes)
        if self.executions % 64 == 0 and time.monotonic() > self.written_s + 2:
            self.write()

    @staticmethod
    def _peak_nbytes() -> int:
        return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def keep(self, data: bytes, error: Exception) -> None:
        """Keep an input and what it did, once for each place."""
        self.found += 1
        trace = traceback.extract_tb(error.__traceback__)
        where = [f"{Path(frame.filename).name}:{frame.lineno}" for frame in trace[-3:]]
        said = str(error)[:40] if isinstance(error, AssertionError) else ""
        key = hashlib.sha1(
            repr((type(error).__name__, where, said)).encode(), usedforsecurity=False
        ).hexdigest()[:12]
        path = self.findings / f"{self.target.name}-{key}"
        if not path.exists():
            path.write_bytes(data)
            text = "".join(traceback.format_exception(error, limit=-8))
            path.with_suffix(".txt").write_text(text)
            sys.stderr.write(f"FOUND {path}: {type(error).__name__}: {str(error)[:200]}\n")

    def write(self) -> None:
        """Write what was done so far; a run that is killed keeps it."""
        usage = resource.getrusage(resource.RUSAGE_SELF)
        self.written_s = time.monotonic()
        self.stats.write_text(
            json.dumps(
                {
                    "target": self.target.name,
                    "executions": self.executions,
                    "cpu_s": round(usage.ru_utime + usage.ru_stime, 1),
                    "wall_s": round(self.written_s - self.started_s, 1),
                    "high_water_mib": self.high_nbytes >> 20,
                    "found": self.found,
                }
            )
        )


def main() -> None:
    """Fuzz until the time is over; libFuzzer ends the process."""
    parser = argparse.ArgumentParser(prog="tests.fuzz.run")
    parser.add_argument("target")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--folder", type=Path, default=Path(".fuzz"))
    parser.add_argument("--headroom-mb", type=int, default=768)
    options = parser.parse_args()

    import atheris

    with atheris.instrument_imports(include=["mmformat"]):
        from tests.fuzz.targets import TARGETS

    target = TARGETS[options.target]
    corpus = options.folder / "corpus" / target.name
    seeds = options.folder / "seeds" / target.name
    for path in (corpus, seeds):
        path.mkdir(parents=True, exist_ok=True)
    for seed in target.seeds():
        name = hashlib.sha1(seed, usedforsecurity=False).hexdigest()
        (seeds / name).write_bytes(seed)
    for seed in target.seeds():
        target.check(seed)  # whatever is imported late is imported now
    # Beyond this an allocation fails, and the traceback says whose it was.
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    ceiling = taken + options.headroom_mb * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (ceiling, ceiling))
    watched = Watched(target, options.folder)

    def mutate(data: bytes, max_nbytes: int, seed: int) -> bytes:
        chance = random.Random(seed)
        try:
            return target.mutate(data, max_nbytes, chance, atheris.Mutate)
        except MemoryError as error:
            watched.keep(data, error)
            return data[:max_nbytes]

    arguments = [
        sys.argv[0],
        str(corpus),
        str(seeds),
        f"-max_total_time={options.seconds}",
        f"-max_len={target.max_nbytes}",
        "-rss_limit_mb=0",
        f"-artifact_prefix={watched.findings}/{target.name}-",
        "-timeout=30",
        "-len_control=0",
        "-print_final_stats=0",
        "-verbosity=0",
        "-use_value_profile=1",
    ]
    import atexit

    atexit.register(watched.write)
    atheris.Setup(arguments, watched, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
