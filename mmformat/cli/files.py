"""The messages that a command was asked about: files, and folders of them."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from mmformat.cli.output import Output
from mmformat.errors import MMFormatError

__all__ = ["SUFFIX", "add_paths", "each_message"]

SUFFIX: Final = ".arrows"


def add_paths(parser: argparse.ArgumentParser) -> None:
    """Add the argument that :func:`each_message` reads."""
    parser.add_argument(
        "paths", nargs="+", metavar="PATH", help=f"messages, or folders of *{SUFFIX} files"
    )


def each_message(
    arguments: argparse.Namespace, output: Output, look: Callable[[Path], Any]
) -> tuple[list[tuple[Path, Any]], bool]:
    """Look at every message, and go on past those that cannot be looked at.

    Returns
    -------
    list of (path, what ``look`` returned), and whether every message could be looked at
    """
    found: list[tuple[Path, Any]] = []
    complete = True
    for path in _files(arguments.paths):
        try:
            found.append((path, look(path)))
        except MMFormatError as error:
            complete = False
            output.error(f"{path}: {error}", hint=error.hint)
    return found, complete


def _files(paths: list[str]) -> Iterator[Path]:
    for text in paths:
        path = Path(text)
        if not path.is_dir():
            yield path
            continue
        within = sorted(path.rglob(f"*{SUFFIX}"))
        if not within:
            raise MMFormatError(f"expected *{SUFFIX} files in {path}, got none")
        yield from within
