"""The command line of the benchmarks: a scenario, or a little of each."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from typing import Any, Final

from benchmarks.commands import placement, report, strategies
from benchmarks.commands.quick import run_quick
from benchmarks.commands.terminal import add_comparison, finish
from benchmarks.scenarios import SCENARIOS, Scenario
from mmformat.cli.options import (
    Parser,
    Subparsers,
    UsageError,
    add_command,
    add_common,
    build,
    positive,
)
from mmformat.cli.output import Output

__all__ = ["parser"]

_EPILOG: Final = """\
examples:
  python -m benchmarks --quick
  python -m benchmarks --quick --json now.json --compare before.json
  python -m benchmarks codec --payload image --json codec.json
  python -m benchmarks fanout --payload image --method mmformat-arena --method pickle5 --rounds 15
  python -m benchmarks growth --ranks 4 --full
  python -m benchmarks counts --compare benchmarks/results/counts.json
  python -m benchmarks report codec.json fanout.json -o report.md
"""


def parser() -> Parser:
    """Return the parser of ``python -m benchmarks``."""
    made = build(
        Parser,
        prog="python -m benchmarks",
        description="Measure on this machine what the documentation shows. Each method carries the "
        "same tensors in\nthe same process layout, in turn, and every tensor is checked by hash.\n"
        "Without a scenario, --quick runs a little of each in under a minute.",
        epilog=_EPILOG,
    )
    add_common(made, json_file=True)
    made.add_argument("--quick", action="store_true", help="a little of each scenario")
    made.add_argument("--plot", metavar="PNG", help="with --quick: draw the summary")
    add_comparison(made)
    made.set_defaults(run=_run_quick)
    scenarios: Subparsers = made.add_subparsers(title="scenarios", metavar="SCENARIO")
    for described in SCENARIOS.values():
        _add(scenarios, described)
    for each in (strategies, placement, report):
        each.register(scenarios)
    return made


def _add(scenarios: Subparsers, described: Scenario) -> None:
    parser = add_command(
        scenarios,
        described.name,
        run=partial(_run, described),
        caption=described.caption,
        epilog=_EPILOG,
        json_file=True,
    )
    parser.add_argument(
        "--payload", action="append", metavar="NAME", help="only this one; may be repeated"
    )
    parser.add_argument(
        "--method", action="append", metavar="NAME", help="only this way; may be repeated"
    )
    parser.add_argument(
        "--rounds", type=positive, metavar="N", help="how often each takes its turn"
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        default=argparse.SUPPRESS,
        help="few rounds of small payloads, to see that it works",
    )
    add_comparison(parser, nested=True)
    if described.name == "fanout":
        parser.add_argument(
            "--ranks", type=positive, default=4, metavar="N", help="rank processes (default: 4)"
        )
    if described.name == "growth":
        parser.add_argument(
            "--ranks",
            type=positive,
            action="append",
            metavar="N",
            help="rank processes of the knee; may be repeated (default: 1, 2, 4 and 8)",
        )
        parser.add_argument(
            "--full", action="store_true", help="all sizes up to 512 MB; about half an hour"
        )
    if described.name == "legacy":
        parser.add_argument(
            "--folder", metavar="FOLDER", help="old pickles (default: those of the tests)"
        )


def _run(described: Scenario, arguments: argparse.Namespace, output: Output) -> int:
    _require(described)
    payloads = _known(arguments.payload, described.payloads, "a payload")
    methods = _known(arguments.method, described.methods, "a method")
    if arguments.quick:
        payloads = arguments.payload or described.quick_payloads or payloads
        methods = arguments.method or described.quick_methods or methods
    more: dict[str, Any] = {
        name: getattr(arguments, name)
        for name in ("ranks", "full", "folder")
        if getattr(arguments, name, None) is not None
    }
    with output.progress(f"bench {described.name}") as follow:
        result = described.run(
            payloads=payloads,
            methods=methods,
            rounds=arguments.rounds,
            quick=arguments.quick,
            follow=follow,
            **more,
        )
    return finish(result, arguments, output)


def _run_quick(arguments: argparse.Namespace, output: Output) -> int:
    if not arguments.quick:
        raise UsageError(
            "expected a scenario, or --quick, got none", hint="python -m benchmarks --help"
        )
    return run_quick(arguments, output)


def _known(chosen: Sequence[str] | None, known: Sequence[str], noun: str) -> Sequence[str]:
    for name in chosen or ():
        is_sized = noun == "a payload" and name[0].isdigit()  # as 4x16MiB
        if known and name not in known and not is_sized:
            raise UsageError(f"expected {noun} of {', '.join(known)}, got {name!r}")
    return chosen or known


def _require(described: Scenario) -> None:
    from mmformat._extras import require

    for module, extra in described.modules:
        require(module, extra=extra)
