"""Measure the way to the GPU: `python benchmarks/placement.py one-device --out FILE.json`.

one-device, expansion: one GPU. ranks, tower: all GPUs of this machine, one process each.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from mmformat.bench.placement import run_expansion, run_one_device, run_ranks
from mmformat.bench.placement.pool import run_pool
from mmformat.bench.placement.tower import run_tower

SCENARIOS = {
    "one-device": run_one_device,
    "expansion": run_expansion,
    "ranks": run_ranks,
    "pool": run_pool,
    "tower": run_tower,
}


def told(cell: dict) -> str:
    """Return a line about a cell: its names, and medians in milliseconds."""
    names = [str(value) for value in cell.values() if isinstance(value, (str, int)) and value != ""]
    times = [
        f"{key.removesuffix('_ns')} {value['median'] / 1e6:.3f} ms (IQR {value['iqr'] / 1e6:.3f})"
        for key, value in cell.items()
        if isinstance(value, dict)
    ]
    return " | ".join(names + times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scenario", choices=SCENARIOS)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rounds", type=int)
    options = parser.parse_args()
    arguments = {} if options.rounds is None else {"rounds": options.rounds}
    result = SCENARIOS[options.scenario](**arguments)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(options.scenario, result["devices"])
    for cell in [*result.get("cells", []), *result.get("transfers", [])]:
        print(told(cell))


if __name__ == "__main__":
    main()
