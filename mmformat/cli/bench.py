"""mmformat bench: the measurements of the reports, on the user's own machine."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mmformat.cli.options import Subparsers, UsageError, add_command, build, positive
from mmformat.cli.output import Output, megabytes

if TYPE_CHECKING:
    from mmformat.bench.results import Result

__all__ = ["SCENARIO_MODULES", "register"]

SCENARIO_MODULES: Final = ("mmformat.cli.bench_strategies",)
"""Further scenarios: each a module that exposes ``register(scenarios)``, as commands do."""

_EPILOG: Final = """\
examples:
  mmformat bench codec --quick
  mmformat bench codec --payload image --json codec.json
  mmformat bench fanout --payload image --arm mmformat-arena --arm pickle5 --rounds 15
  mmformat bench report codec.json fanout.json -o report.md
"""


def register(subparsers: Subparsers) -> None:
    """Add the commands."""
    parser = build(
        subparsers.add_parser,
        name="bench",
        help="measure encoding, decoding and fan-out beside the alternatives",
        description="Measure on this machine what the reports show. Each alternative carries the "
        "same tensors in\nthe same process layout, in turn, and every tensor is checked by hash.",
        epilog=_EPILOG,
    )
    scenarios: Subparsers = parser.add_subparsers(
        title="scenarios", metavar="SCENARIO", required=True
    )
    _add(scenarios, "codec", _run_codec, "encode and decode in one process")
    _add(scenarios, "put", _run_put, "put into the arena beside one memcpy of the same bytes")
    fanout = _add(scenarios, "fanout", _run_fanout, "one producer, N reader processes")
    fanout.add_argument(
        "--readers", type=positive, default=4, metavar="N", help="reader processes (default: 4)"
    )
    for name in SCENARIO_MODULES:
        if importlib.util.find_spec(name) is not None:
            importlib.import_module(name).register(scenarios)
    _add_report(scenarios)


def _add(
    scenarios: Subparsers, name: str, run: Callable[..., int], caption: str
) -> argparse.ArgumentParser:
    parser = add_command(scenarios, name, run=run, caption=caption, epilog=_EPILOG, json_file=True)
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
        "--quick", action="store_true", help="few rounds of small payloads, to see that it works"
    )
    return parser


def _add_report(scenarios: Subparsers) -> None:
    parser = add_command(
        scenarios, "report", run=_run_report, caption="make Markdown and plots from results"
    )
    parser.add_argument("results", nargs="+", metavar="JSON", help="files that --json FILE wrote")
    parser.add_argument("-o", "--output", metavar="FILE", help="Markdown file; stdout when omitted")
    parser.add_argument("--plots", metavar="FOLDER", help="where to put PNG plots")


def _known(chosen: Sequence[str] | None, known: Sequence[str], noun: str) -> Sequence[str]:
    for name in chosen or ():
        if name not in known:
            raise UsageError(f"expected {noun} of {', '.join(known)}, got {name!r}")
    return chosen or known


def _requirements() -> None:
    from mmformat._extras import require

    require("torch", extra="torch")
    require("zmq", extra="zmq")


def _run_codec(arguments: argparse.Namespace, output: Output) -> int:
    _requirements()
    from mmformat.bench.codec import CODEC_ARMS, CODEC_PAYLOADS, run_codec

    payloads = _known(arguments.payload, CODEC_PAYLOADS, "a payload")
    if arguments.quick and not arguments.payload:
        payloads = ("image-small", "image")
    with output.progress("bench codec") as follow:
        result = run_codec(
            payloads=payloads,
            arms=_known(arguments.arm, CODEC_ARMS, "an arm"),
            rounds=arguments.rounds,
            quick=arguments.quick,
            follow=follow,
        )
    columns = ("encode_ns", "decode_ns", "touch_ns", "touched_ns")
    titles = ("encode ms", "decode ms", "touch ms", "all ms")
    return _finish(result, arguments.json, output, dict(zip(columns, titles, strict=True)))


def _run_put(arguments: argparse.Namespace, output: Output) -> int:
    _requirements()
    from mmformat.bench.put import PUT_ARMS, PUT_PAYLOADS, run_put

    payloads = _known(arguments.payload, PUT_PAYLOADS, "a payload")
    if arguments.quick and not arguments.payload:
        payloads = ("image-small", "image")
    with output.progress("bench put") as follow:
        result = run_put(
            payloads=payloads,
            arms=_known(arguments.arm, PUT_ARMS, "an arm"),
            rounds=arguments.rounds,
            quick=arguments.quick,
            follow=follow,
        )
    columns = {"put_ns": "put ms", "rate_bytes/ns": "GB/s"}
    return _finish(result, arguments.json, output, columns, spread="put_ns")


def _run_fanout(arguments: argparse.Namespace, output: Output) -> int:
    _requirements()
    from mmformat.bench.fanout import FANOUT_ARMS, FANOUT_PAYLOADS, QUICK_ARMS, run_fanout

    payloads = _known(arguments.payload, FANOUT_PAYLOADS, "a payload")
    arms = _known(arguments.arm, FANOUT_ARMS, "an arm")
    if arguments.quick:
        payloads = arguments.payload or ("image-small", "image")
        arms = arguments.arm or QUICK_ARMS
    with output.progress("bench fanout") as follow:
        result = run_fanout(
            payloads=payloads,
            arms=arms,
            readers=arguments.readers,
            rounds=arguments.rounds,
            quick=arguments.quick,
            follow=follow,
        )
    columns = {
        "sent_ns": "sent ms",
        "returned_ns": "all returned ms",
        "touched_ns": "all touched ms",
        "pss_nbytes": "PSS",
    }
    return _finish(result, arguments.json, output, columns)


def _finish(
    result: Result,
    json: Any,
    output: Output,
    columns: dict[str, str],
    *,
    spread: str = "touched_ns",
) -> int:
    if json is True:
        output.json(result.to_json())
    else:
        if json:
            result.save(Path(json))
            output.note(f"wrote {json}")
        _show(result, output, columns, spread)
    for name, reason in result.missing.items():
        output.note(f"without {name}: {reason}")
    for cell in result.cells:
        if not cell.correct:
            output.error(f"{cell.arm} with {cell.payload}: a tensor arrived changed")
    return 0 if result.is_correct else 1


def _show(result: Result, output: Output, columns: dict[str, str], spread: str) -> None:
    from mmformat.bench.payloads import PAYLOADS

    names = list(dict.fromkeys(cell.payload for cell in result.cells))
    titles = [*columns.values(), "IQR", "n", "message"]
    for name in names:
        rows: list[list[object]] = []
        for cell in result.cells:
            if cell.payload != name:
                continue
            last = cell.metrics[spread]
            row: list[object] = [cell.arm]
            row += [_value(metric, cell.median(metric)) for metric in columns]
            row += [f"{last.iqr / 1e6:.3f}", last.n, megabytes(cell.wire_nbytes)]
            rows.append(row)
        output.table(["arm", *titles], rows, title=PAYLOADS[name].title, right=titles)


def _value(metric: str, value: float) -> str:
    if metric.endswith("/ns"):
        return f"{value:.2f}"
    return f"{value / 1e6:.3f}" if metric.endswith("_ns") else megabytes(value)


def _run_report(arguments: argparse.Namespace, output: Output) -> int:
    from mmformat.bench.report import write_report

    text = write_report(
        [Path(name) for name in arguments.results],
        plots=Path(arguments.plots) if arguments.plots else None,
        beside=Path(arguments.output).parent if arguments.output else None,
    )
    if arguments.output:
        Path(arguments.output).write_text(text, "utf-8")
        output.note(f"wrote {arguments.output}")
    else:
        output.text(text.rstrip())
    return 0
