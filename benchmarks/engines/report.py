"""Write raw samples with the environment, and print medians of them."""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import Any

from mmformat.bench.measure import environment

Samples = dict[str, dict[str, dict[str, list[int]]]]
"""By case, way and quantity: nanoseconds, in the order of measurement."""


def write(path: Path, *, what: str, samples: Samples, **facts: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "what": what,
        "command": " ".join(sys.argv),
        "unit": "ns",
        "environment": environment(),
        **facts,
        "samples": samples,
    }
    path.write_text(json.dumps(content, indent=1) + "\n")


def show(samples: Samples, quantities: tuple[str, ...]) -> None:
    for case, ways in samples.items():
        print(f"\n{case}")
        for way, found in ways.items():
            cells = []
            for quantity in quantities:
                values = [value / 1e6 for value in found.get(quantity, [])]
                if not values:
                    continue
                low, high = min(values), max(values)
                if len(values) > 3:
                    low, _, high = statistics.quantiles(values, n=4)
                cells.append(f"{quantity} {statistics.median(values):8.2f} ({low:.2f}-{high:.2f})")
            n = max(len(values) for values in found.values())
            print(f"  {way:42s} {'   '.join(cells)}   ms, n={n}")
