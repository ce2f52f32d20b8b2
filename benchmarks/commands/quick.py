"""The quick run: one screen, with a bar for each line, and a picture if asked for."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Final

from benchmarks.commands.terminal import compared, is_regression, show_changes
from mmformat.cli.output import Output

if TYPE_CHECKING:
    from benchmarks.quick import Line

__all__ = ["run_quick"]

_BAR_COLUMNS: Final = 24


def run_quick(arguments: argparse.Namespace, output: Output) -> int:
    """Measure a little of each scenario, print the summary, and return the exit status."""
    from mmformat._extras import require

    for module, extra in (("torch", "torch"), ("zmq", "zmq"), ("PIL", "media")):
        require(module, extra=extra)
    from benchmarks.quick import run_suite

    with output.progress("bench --quick") as follow:
        suite = run_suite(follow=follow)
    told = suite.to_json()
    changes = compared(told, arguments, output)
    if arguments.json is True:
        output.json(told)
    else:
        if arguments.json:
            Path(arguments.json).write_text(json.dumps(told, indent=1) + "\n", "utf-8")
            output.note(f"wrote {arguments.json}")
        _show(suite.lines(), suite.duration_s, output)
        show_changes(changes, output)
    if arguments.plot:
        from benchmarks.report.plots import plot_lines

        plot_lines(suite.lines(), Path(arguments.plot))
        output.note(f"wrote {arguments.plot}")
    if not suite.is_correct:
        output.error("a tensor arrived changed")
    return 0 if suite.is_correct and not is_regression(changes, arguments) else 1


def _show(lines: list[Line], duration_s: float, output: Output) -> None:
    rows: list[list[object]] = [
        [
            line.what,
            f"{line.ours:.3g}",
            "" if line.other != line.other else f"{line.other:.3g}",
            line.rival,
            "" if line.control != line.control else f"{line.control:.3g}",
            "" if line.ratio != line.ratio else f"{line.ratio:.2f}",
            _bar(line),
        ]
        for line in lines
    ]
    output.table(
        ["what, ms", "ours", "best rival", "", "control", "rival/ours", "<1 we lose"],
        rows,
        title=f"medians of a few rounds, in {duration_s:.0f} s; the cells that we lose first",
        right=["ours", "best rival", "control", "rival/ours"],
    )


def _bar(line: Line) -> str:
    """Return the ratio as a bar: a tick at 1, a doubling every four columns, to the right ours."""
    from math import log2

    if line.ratio != line.ratio:
        return ""
    middle = _BAR_COLUMNS // 2
    end = max(0, min(_BAR_COLUMNS, middle + round(4 * log2(line.ratio))))
    low, high = sorted((middle, end))
    mark = "█" if end >= middle else "░"
    return " " * low + mark * (high - low) + ("" if end >= middle else "|")
