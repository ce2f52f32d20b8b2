"""python -m benchmarks.dictionary [--rounds N] [--json FILE]: all of it, in one process."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.dictionary import detection, processors, rivals
from mmformat.measure import environment

SECTIONS: dict[str, Callable[[int], list[dict[str, Any]]]] = {
    "processors": processors.run,
    "rivals": rivals.run,
    "detection": detection.run,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.dictionary")
    parser.add_argument("sections", nargs="*", metavar="|".join(SECTIONS), default=list(SECTIONS))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    results: dict[str, Any] = {"environment": environment()}
    for name in arguments.sections:
        print(f"\n{name}")
        results[name] = SECTIONS[name](arguments.rounds)
        for row in results[name]:
            print("  " + row["text"])
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
