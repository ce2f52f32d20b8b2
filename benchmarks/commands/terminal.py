"""Tables of a measurement on the terminal: its cells, and the same beside an older result."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmformat.cli.output import Output, megabytes

if TYPE_CHECKING:
    from benchmarks.compare import Change
    from mmformat.bench.measure import Cell
from benchmarks.results import Result

__all__ = [
    "add_comparison",
    "as_text",
    "compared",
    "finish",
    "is_regression",
    "show",
    "show_changes",
]


def add_comparison(parser: argparse.ArgumentParser, *, nested: bool = False) -> None:
    """Add ``--compare`` and ``--fail-on-regression``."""
    default: Any = argparse.SUPPRESS if nested else None
    parser.add_argument(
        "--compare", metavar="OLD", default=default, help="an older --json FILE to put beside it"
    )
    parser.add_argument(
        "--fail-on-regression",
        action="store_true",
        default=argparse.SUPPRESS if nested else False,
        help="exit with 1 when a time is worse beyond noise (counts always do)",
    )


def finish(result: Result, arguments: argparse.Namespace, output: Output) -> int:
    """Print or write a result, say what is missing or wrong, and return the exit status."""
    told = result.to_json()
    changes = compared(told, arguments, output)
    if arguments.json is True:
        output.json(told)
    else:
        if arguments.json:
            result.save(Path(arguments.json))
            output.note(f"wrote {arguments.json}")
        show(result, output)
        show_changes(changes, output)
    for name, reason in result.missing.items():
        output.note(f"without {name}: {reason}")
    for cell in result.cells:
        if not cell.correct:
            output.error(f"{cell.method} with {cell.payload}: a tensor arrived changed")
    return 0 if result.is_correct and not is_regression(changes, arguments) else 1


def compared(told: dict[str, Any], arguments: argparse.Namespace, output: Output) -> list[Change]:
    """Return the changes since the result that ``--compare`` names; none without it."""
    if not arguments.compare:
        return []
    from dataclasses import asdict

    from benchmarks.compare import compare
    from benchmarks.results import load

    changes = compare(load(Path(arguments.compare)), told)
    if arguments.json is True:
        told["changes"] = [asdict(change) for change in changes]
    return changes


def is_regression(changes: list[Change], arguments: argparse.Namespace) -> bool:
    """Return whether the exit status is to say so: of counts always, of times when asked."""
    worse = [change for change in changes if change.verdict == "worse"]
    return any(change.scenario == "counts" or arguments.fail_on_regression for change in worse)


def show_changes(changes: list[Change], output: Output) -> None:
    """Print what changed, the worst first; what did not is a number."""
    if not changes:
        return
    moved = [change for change in changes if change.verdict != "same"]
    rows = [
        [
            change.verdict,
            f"{change.scenario}, {change.payload}, {change.method}",
            change.metric,
            as_text(change.metric, change.old),
            as_text(change.metric, change.new),
            f"{change.ratio:.2f}",
            change.note,
        ]
        for change in (moved if changes[0].scenario == "counts" else changes)
    ]
    worse = sum(change.verdict == "worse" for change in changes)
    title = f"{worse} of {len(changes)} worse, {len(moved) - worse} better beyond noise"
    if not rows:
        output.text(title)
        return
    output.table(
        ["verdict", "cell", "metric", "old", "new", "ratio", "note"],
        rows,
        title=title,
        right=["old", "new", "ratio"],
    )


def show(result: Result, output: Output) -> None:
    """Print a table for each payload."""
    from benchmarks.scenarios import SCENARIOS

    described = SCENARIOS[result.scenario]
    metrics = [
        (metric, title)
        for metric, title in described.columns
        if any(_value(cell, metric) is not None for cell in result.cells)
    ]
    titles = [_title(metric, title) for metric, title in metrics]
    spread = ["IQR", "n"] if described.metric.endswith("_ns") else []
    for name in dict.fromkeys(cell.payload for cell in result.cells):
        rows: list[list[object]] = []
        for cell in result.cells:
            if cell.payload != name:
                continue
            row: list[object] = [cell.method]
            for metric, _ in metrics:
                value = _value(cell, metric)
                row.append("" if value is None else as_text(metric, value))
            if spread:
                judged = cell.metrics[described.metric]
                row += [f"{judged.iqr / 1e6:.3f}", judged.n]
            rows.append(row)
        output.table(
            ["method", *titles, *spread],
            rows,
            title=result.subject(name).title,
            right=[*titles, *spread],
        )


def as_text(metric: str, value: float) -> str:
    """Return a metric's value as people read it; the unit is the end of the metric's name."""
    if metric.endswith("/ns"):
        return f"{value:.2f}"
    if metric.endswith("_ns"):
        return f"{value / 1e6:.3f}"
    if metric.endswith("_nbytes"):
        return megabytes(value)
    return f"{value:,.0f}" if value == round(value) else f"{value:,.2f}"


def _title(metric: str, title: str) -> str:
    return f"{title} ms" if metric.endswith("_ns") else title


def _value(cell: Cell, metric: str) -> float | None:
    if metric == "wire_nbytes":
        return cell.wire_nbytes or None
    return cell.metrics[metric].median if metric in cell.metrics else None
