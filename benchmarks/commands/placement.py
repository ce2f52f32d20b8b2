"""The command `placement`: the way to the GPU, on one device or on all of this machine."""

from __future__ import annotations

import argparse
import importlib
import json
from pathlib import Path
from typing import Any, Final

from mmformat.cli.options import Subparsers, UsageError, add_command, positive
from mmformat.cli.output import Output
from mmformat.errors import PlacementError

__all__ = ["register"]

_EPILOG: Final = """\
examples:
  python -m benchmarks placement one-device --json one-device.json
  python -m benchmarks placement ranks --rounds 15
"""

_PARTS: Final = {
    "one-device": "one_device:run_one_device",
    "expansion": "expansion:run_expansion",
    "ranks": "ranks:run_ranks",
    "pool": "pool:run_pool",
    "tower": "tower:run_tower",
}
"""Module and function within `benchmarks.placement`; the last three use every GPU."""


def register(scenarios: Subparsers) -> None:
    """Add the scenario."""
    parser = add_command(
        scenarios,
        "placement",
        run=_run,
        caption="the way to the GPU, beside a plain pinned copy; needs a CUDA device",
        epilog=_EPILOG,
        json_file=True,
    )
    parser.add_argument(
        "part",
        nargs="?",
        default="one-device",
        metavar="PART",
        help=f"{', '.join(_PARTS)} (default: one-device)",
    )
    parser.add_argument(
        "--rounds", type=positive, metavar="N", help="how often each takes its turn"
    )


def _run(arguments: argparse.Namespace, output: Output) -> int:
    if arguments.part not in _PARTS:
        raise UsageError(f"expected a part of {', '.join(_PARTS)}, got {arguments.part!r}")
    from mmformat._extras import require

    torch = require("torch", extra="torch")
    if not torch.cuda.is_available():
        build = "built without CUDA" if torch.version.cuda is None else "which finds no device"
        raise PlacementError(
            f"expected a CUDA device, got torch {torch.__version__}, {build}",
            hint="run it where nvidia-smi lists a device; docs/cuda.md has what was measured there",
        )
    module, _, name = _PARTS[arguments.part].partition(":")
    function = getattr(importlib.import_module(f"benchmarks.placement.{module}"), name)
    more = {} if arguments.rounds is None else {"rounds": arguments.rounds}
    result = function(**more)
    if arguments.json is True:
        output.json(result)
        return 0
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(result, indent=1) + "\n", "utf-8")
        output.note(f"wrote {arguments.json}")
    output.text(f"{arguments.part} on {result.get('devices')}")
    for cell in [*result.get("cells", []), *result.get("transfers", [])]:
        output.text(_line(cell))
    wrong = [cell for cell in result.get("cells", []) if not cell.get("correct", True)]
    for cell in wrong:
        output.error(f"a tensor arrived changed: {_line(cell)}")
    return 1 if wrong else 0


def _line(cell: dict[str, Any]) -> str:
    names = [str(value) for value in cell.values() if isinstance(value, (str, int)) and value != ""]
    times = [
        f"{key.removesuffix('_ns')} {value['median'] / 1e6:.3f} ms (IQR {value['iqr'] / 1e6:.3f})"
        for key, value in cell.items()
        if isinstance(value, dict) and "median" in value
    ]
    return " | ".join(names + times)
