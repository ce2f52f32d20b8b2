"""The command `strategies`: ten ways from a tokenizer to the ranks."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, Final

from mmformat.cli.options import Subparsers, UsageError, add_command, positive
from mmformat.cli.output import Output, megabytes

__all__ = ["register"]

_EPILOG: Final = """\
examples:
  python -m benchmarks strategies --tp 4 --requests 10
  python -m benchmarks strategies --payload mixed --way every-rank --way mmformat --rounds 5
  python -m benchmarks strategies --json strategies.json
"""

_COLUMNS: Final = {
    "materializations_count": "materialized",
    "cpu_ms": "CPU ms",
    "latency_ms": "latency ms",
    "throughput_per_s": "requests/s",
    "p50": "p50 ms",
    "p99": "p99 ms",
    "blocked_longest_ms": "blocked ms",
    "blocked_total_ms": "in all",
    "moved_nbytes": "moved",
    "peak_pss_nbytes": "peak PSS",
}


def register(scenarios: Subparsers) -> None:
    """Add the scenario."""
    parser = add_command(
        scenarios,
        "strategies",
        run=_run,
        caption="a tokenizer, ranks with a scheduler's loop, nine ways between them",
        epilog=_EPILOG,
        json_file=True,
    )
    parser.add_argument("--tp", type=positive, default=4, metavar="N", help="ranks (default: 4)")
    parser.add_argument(
        "--requests",
        type=positive,
        default=10,
        metavar="N",
        help="how many are sent one by one, and then at once (default: 10)",
    )
    parser.add_argument(
        "--payload",
        choices=("image", "video", "mixed"),
        default="image",
        help="25.8 MB of float32 a request, 206 MB, or one to three images (default: image)",
    )
    parser.add_argument(
        "--device",
        choices=("cpu", "cuda"),
        default="cpu",
        help="where the ranks want their tensors; GPUs are dealt over them (default: cpu)",
    )
    parser.add_argument("--way", action="append", metavar="NAME", help="only this one; repeatable")
    parser.add_argument(
        "--rounds", type=positive, default=3, metavar="N", help="runs of each (default: 3)"
    )
    parser.add_argument(
        "--workers", type=positive, metavar="N", help="threads of the pool (default: the cores)"
    )


def _run(arguments: argparse.Namespace, output: Output) -> int:
    from mmformat._extras import require

    for module, extra in (("torch", "torch"), ("zmq", "zmq"), ("PIL", "media")):
        require(module, extra=extra)
    from benchmarks.strategies import WAYS, run_strategies

    known = [way.name for way in WAYS]
    for name in arguments.way or ():
        if name not in known:
            raise UsageError(f"expected a way of {', '.join(known)}, got {name!r}")
    with output.progress("bench strategies") as follow:
        result = run_strategies(
            tp=arguments.tp,
            requests=arguments.requests,
            payload=arguments.payload,
            rounds=arguments.rounds,
            workers=arguments.workers,
            device=arguments.device,
            ways=arguments.way,
            follow=follow,
        )
    if arguments.json is True:
        output.json(result)
        return 0
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(result, indent=1) + "\n", "utf-8")
        output.note(f"wrote {arguments.json}")
    _show(result, output)
    return 0


def _show(result: dict[str, Any], output: Output) -> None:
    settings = result["settings"]
    rows = [[cell["title"], *map(_text, _values(cell))] for cell in result["cells"]]
    titles = list(_COLUMNS.values())
    output.table(
        ["way", *titles],
        rows,
        title=f"{settings['requests']} requests of {settings['payload']}, {settings['tp']} ranks, "
        "medians; blocked: the longest and all silences of the worst rank's loop over 10 ms",
        right=titles,
    )
    estimated = [
        [
            cell["title"],
            *(f"{cell['estimate'][name]:g}" for name in ("cpu_ms", "latency_ms")),
            f"{cell['estimate']['requests_per_s']:g}",
            cell["estimate"]["scheduler_blocked"],
        ]
        for cell in result["cells"]
        if cell["estimate"]
    ]
    if estimated:
        columns = ["CPU ms", "latency ms", "requests/s", "scheduler blocked"]
        output.table(
            ["way", *columns],
            estimated,
            title="what the original analysis estimated for 4 ranks, before anything was measured",
            right=columns,
        )


def _values(cell: dict[str, Any]) -> list[tuple[str, float]]:
    metrics = cell["metrics"]
    together = sorted(metrics["concurrent_ms"]["samples"])
    found = {name: value["median"] for name, value in metrics.items()}
    found["p50"] = together[len(together) // 2]
    found["p99"] = together[min(len(together) - 1, round(0.99 * len(together)))]
    return [(name, found[name]) for name in _COLUMNS]


def _text(named: tuple[str, float]) -> str:
    name, value = named
    if name.endswith("nbytes"):
        return megabytes(value)
    return f"{value:.1f}"
