"""mmformat bench: the measurements of the reports, on the user's own machine."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from mmformat.cli.bench_show import add_comparison, finish
from mmformat.cli.options import Subparsers, UsageError, add_command, add_common, build, positive
from mmformat.cli.output import Output

if TYPE_CHECKING:
    from mmformat.bench.scenarios import Scenario

__all__ = ["SCENARIO_MODULES", "register"]

SCENARIO_MODULES: Final = (
    "mmformat.cli.bench_strategies",
    "mmformat.cli.bench_placement",
    "mmformat.cli.bench_report",
)
"""Further scenarios: each a module that exposes ``register(scenarios)``, as commands do."""

_EPILOG: Final = """\
examples:
  mmformat bench --quick
  mmformat bench --quick --json now.json --compare before.json
  mmformat bench codec --payload image --json codec.json
  mmformat bench fanout --payload image --arm mmformat-arena --arm pickle5 --rounds 15
  mmformat bench growth --ranks 4 --full
  mmformat bench counts --compare benchmarks/results/counts.json
  mmformat bench report codec.json fanout.json -o report.md
"""


def register(subparsers: Subparsers) -> None:
    """Add the commands."""
    from mmformat.bench.scenarios import SCENARIOS

    parser = build(
        subparsers.add_parser,
        name="bench",
        help="measure every part of the way beside the alternatives",
        description="Measure on this machine what the reports show. Each alternative carries the "
        "same tensors in\nthe same process layout, in turn, and every tensor is checked by hash.\n"
        "Without a scenario, --quick runs a little of each in under a minute.",
        epilog=_EPILOG,
    )
    add_common(parser, nested=True, json_file=True)
    parser.add_argument("--quick", action="store_true", help="a little of each scenario")
    parser.add_argument("--plot", metavar="PNG", help="with --quick: draw the summary")
    add_comparison(parser)
    parser.set_defaults(run=_run_quick)
    scenarios: Subparsers = parser.add_subparsers(title="scenarios", metavar="SCENARIO")
    for described in SCENARIOS.values():
        _add(scenarios, described)
    for name in SCENARIO_MODULES:
        importlib.import_module(name).register(scenarios)


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
        "--arm", action="append", metavar="NAME", help="only this way; may be repeated"
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
    arms = _known(arguments.arm, described.arms, "an arm")
    if arguments.quick:
        payloads = arguments.payload or described.quick_payloads or payloads
        arms = arguments.arm or described.quick_arms or arms
    more: dict[str, Any] = {
        name: getattr(arguments, name)
        for name in ("ranks", "full", "folder")
        if getattr(arguments, name, None) is not None
    }
    with output.progress(f"bench {described.name}") as follow:
        result = described.function()(
            payloads=payloads,
            arms=arms,
            rounds=arguments.rounds,
            quick=arguments.quick,
            follow=follow,
            **more,
        )
    return finish(result, arguments, output)


def _run_quick(arguments: argparse.Namespace, output: Output) -> int:
    if not arguments.quick:
        raise UsageError("expected a scenario, or --quick, got none", hint="mmformat bench --help")
    from mmformat.cli.bench_quick import run_quick

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
