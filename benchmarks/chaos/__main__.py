"""Run `python -m benchmarks.chaos`: the long run of `make chaos`."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from benchmarks.chaos.run import Chaos, problems
from mmformat.bench.measure import environment


def main() -> int:
    """Run, print the figures as JSON, and fail when anything went wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--ranks", type=int, default=4)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="mmf-chaos-") as directory:
        figures = Chaos(
            Path(directory),
            requests=arguments.requests,
            ranks=arguments.ranks,
            seed=arguments.seed,
        ).run()
    found = problems(figures)
    text = json.dumps({**figures, "problems": found, "environment": environment()}, indent=2)
    print(text)
    if arguments.output is not None:
        arguments.output.write_text(text + "\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
