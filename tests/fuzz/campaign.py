"""Fuzz every target in turn for long: ``python -m tests.fuzz.campaign --minutes 60``."""

from __future__ import annotations

import argparse
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

TURNS = (
    *("decode", "pickle", "segment", "decode", "schema", "pickle"),
    *("decode", "decompress", "pickle", "handle"),
)
"""What has more forms comes more often; the corpus of a target is kept from turn to turn."""

_running: list[subprocess.Popen[bytes]] = []


def _stop(*_: object) -> None:
    for process in _running:
        process.terminate()
    raise SystemExit(0)


def _start(target: str, options: argparse.Namespace, seconds: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.fuzz.run", target, "--folder", str(options.folder)]
    with (options.folder / f"{target}.log").open("wb") as log:
        return subprocess.Popen(
            [*command, "--seconds", str(seconds)], stdout=subprocess.DEVNULL, stderr=log
        )


def main() -> int:
    """Run turns until the time is over; exit with 1 when anything was found."""
    parser = argparse.ArgumentParser(prog="tests.fuzz.campaign")
    parser.add_argument("--minutes", type=float, default=3)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--turn-seconds", type=int, default=180)
    parser.add_argument("--once", action="store_true", help="each target once, and no longer")
    parser.add_argument("--targets", nargs="*", default=TURNS)
    parser.add_argument("--folder", type=Path, default=Path(".fuzz"))
    options = parser.parse_args()
    if find_spec("atheris") is None:
        print("not run: atheris has no wheel for this Python and machine; `make test` runs the")
        print("same oracles over seeds and their changes (tests/fuzz/test_fuzz_targets.py)")
        return 0
    options.folder.mkdir(parents=True, exist_ok=True)
    (options.folder / "campaign.pid").write_text(str(os.getpid()))
    signal.signal(signal.SIGTERM, _stop)
    end_s = time.monotonic() + 60 * options.minutes
    names = dict.fromkeys(options.targets) if options.once else itertools.cycle(options.targets)
    turns: Iterator[str] = iter(names)
    target = next(turns)
    failed = 0
    while True:
        for process in [process for process in _running if process.poll() is not None]:
            _running.remove(process)
            if process.returncode:
                failed += 1
                print(f"{process.args[3]} ended with {process.returncode}", flush=True)
                time.sleep(5)  # one that cannot even start is not started again at once
        left = int(end_s - time.monotonic())
        if (left <= 0 or not target) and not _running:
            break
        while target and left > 0 and len(_running) < options.workers:
            if not any(target in process.args for process in _running):
                _running.append(_start(target, options, min(left, options.turn_seconds)))
            target = next(turns, "")
        time.sleep(0.5)
    findings = sorted(path.name for path in (options.folder / "findings").glob("*"))
    print(f"{len(findings)} files in {options.folder / 'findings'}", *findings)
    return int(bool(findings or failed))


if __name__ == "__main__":
    sys.exit(main())
