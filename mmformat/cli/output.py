"""The one module that prints: data on stdout, all else on stderr."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, Protocol, TextIO

from mmformat._extras import require
from mmformat.errors import MissingExtraError, MMFormatError
from mmformat.model.repr import megabytes, printable

__all__ = ["Output", "Progress", "megabytes", "printable"]

_FILE_WIDTH: Final = 240
"""Columns of a table that goes into a file or a pipe: wide enough to cut nothing."""


class Progress(Protocol):
    """Follow work that takes a while."""

    def __call__(self, text: str, done: float) -> None:
        """Show what is being done, and how much of it, 0 to 1, is."""


class Output:
    """Print for one run of a command.

    Examples
    --------
    >>> Output().text("one line of data")
    one line of data
    """

    def __init__(self, *, wants_json: bool = False) -> None:
        self.wants_json = wants_json

    def text(self, line: str) -> None:
        """Print a line of data."""
        print(printable(line))

    def json(self, value: Any) -> None:
        """Print one JSON document, with nothing in it that JSON does not have."""
        print(json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False))

    def bytes(self, data: Sequence[Any]) -> None:
        """Write buffers to stdout.

        Raises
        ------
        MMFormatError
            When stdout is a terminal.
        """
        if sys.stdout.isatty():
            raise MMFormatError(
                "expected a file or a pipe on stdout, got a terminal", hint="-o FILE"
            )
        sys.stdout.flush()
        for buffer in data:
            sys.stdout.buffer.write(buffer)

    def table(
        self,
        columns: Sequence[str],
        rows: Sequence[Sequence[object]],
        *,
        title: str | None = None,
        right: Sequence[str] = (),
    ) -> None:
        """Print a table, plain where rich is missing; columns of ``right`` are aligned there."""
        try:
            box = require("rich.box", extra="cli")
        except MissingExtraError:
            # Work of an hour is not lost for want of a frame around what it found.
            _print_plainly(columns, rows, title=title, right=right)
            return
        table = require("rich.table", extra="cli").Table(
            title=title,
            title_justify="left",
            title_style="bold",
            box=box.SIMPLE_HEAD,
            pad_edge=False,
            collapse_padding=True,
        )
        for column in columns:
            table.add_column(
                column, justify="right" if column in right else "left", overflow="fold"
            )
        text = require("rich.text", extra="cli").Text
        for row in rows:
            table.add_row(*(text(printable(str(cell))) for cell in row))
        _console(sys.stdout).print(table)

    def note(self, line: str) -> None:
        """Print a line that is no data."""
        print(printable(line), file=sys.stderr)

    def error(self, message: str, *, hint: str | None = None) -> None:
        """Print what went wrong, and apart from it what can be done."""
        sys.stdout.flush()  # so that the error stands last where both go to one place
        label = ("\x1b[1;31merror:\x1b[0m" if _has_colour(sys.stderr) else "error:") + " "
        print(label + printable(message), file=sys.stderr)
        if hint:
            print(f"\nhint: {printable(hint)}", file=sys.stderr)

    @contextmanager
    def progress(self, title: str) -> Iterator[Progress]:
        """Show a bar on stderr where that is a terminal and rich is there; else show nothing."""
        module = _progress_module()
        if module is None:
            yield lambda text, done: None
            return
        with module.Progress(
            module.SpinnerColumn(),
            module.TextColumn("{task.description}", markup=False),
            module.BarColumn(),
            module.TaskProgressColumn(),
            module.TimeElapsedColumn(),
            module.TextColumn("left"),
            module.TimeRemainingColumn(),
            console=_console(sys.stderr),
            transient=True,
        ) as bar:
            task = bar.add_task(title, total=1.0)
            yield lambda text, done: bar.update(task, description=printable(text), completed=done)


def _progress_module() -> Any:
    if not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
        return None
    try:
        return require("rich.progress", extra="cli")
    except MissingExtraError:
        return None


def _print_plainly(
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    title: str | None,
    right: Sequence[str],
) -> None:
    cells = [[printable(str(cell)) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    if title:
        print(title)
    for row in ([*columns], ["-" * width for width in widths], *cells):
        aligned = (
            cell.rjust(width) if name in right else cell.ljust(width)
            for cell, width, name in zip(row, widths, columns, strict=True)
        )
        print("  ".join(aligned).rstrip())


def _has_colour(stream: TextIO) -> bool:
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _console(stream: TextIO) -> Any:
    # rich honours NO_COLOR, FORCE_COLOR and TERM itself.
    width = None if stream.isatty() else _FILE_WIDTH
    console = require("rich.console", extra="cli").Console
    return console(file=stream, width=width, highlight=False, markup=False, soft_wrap=False)
