"""The command `report`: Markdown and pictures from results, and README's first screen."""

from __future__ import annotations

import argparse
from pathlib import Path

from mmformat.cli.options import Subparsers, add_command
from mmformat.cli.output import Output

__all__ = ["register"]


def register(scenarios: Subparsers) -> None:
    """Add the command."""
    parser = add_command(
        scenarios, "report", run=_run, caption="make Markdown and plots from results"
    )
    parser.add_argument("results", nargs="+", metavar="JSON", help="files that --json FILE wrote")
    parser.add_argument("-o", "--output", metavar="FILE", help="Markdown file; stdout when omitted")
    parser.add_argument("--plots", metavar="FOLDER", help="where to put PNG plots")
    parser.add_argument(
        "--readme", metavar="FILE", help="write the four numbers between this file's markers"
    )
    parser.add_argument(
        "--strategies", metavar="FILE", help="write the page of the strategies' results"
    )


def _run(arguments: argparse.Namespace, output: Output) -> int:
    from benchmarks.report import read_result, write_readme, write_report

    paths = [Path(name) for name in arguments.results]
    plots = Path(arguments.plots) if arguments.plots else None
    text = write_report(
        paths,
        plots=plots,
        beside=Path(arguments.output).parent if arguments.output else None,
    )
    if arguments.output:
        Path(arguments.output).write_text(text, "utf-8")
        output.note(f"wrote {arguments.output}")
    elif not arguments.readme and not arguments.strategies:
        output.text(text.rstrip())
    if arguments.strategies:
        from benchmarks.report.strategies import strategies_page

        measured = [path for path in paths if read_result(path)["scenario"] == "strategies"]
        Path(arguments.strategies).write_text(strategies_page(measured), "utf-8")
        output.note(f"wrote {arguments.strategies}")
    if arguments.readme:
        write_readme(Path(arguments.readme), paths, plots=plots)
        output.note(f"wrote {arguments.readme}")
    return 0
