"""The messages that a command was asked about: files, and folders of them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from mmformat.cli.output import Output
from mmformat.cli.recognize import missing, recognize
from mmformat.errors import LimitError, MMFormatError
from mmformat.model.limits import Limits

__all__ = ["SUFFIX", "add_paths", "each_message"]

SUFFIX: Final = ".arrows"
STDIN: Final = Path("-")
"""What means a message that is piped in; a file of this name is ``./-``."""


def add_paths(parser: argparse.ArgumentParser) -> None:
    """Add the argument that :func:`each_message` reads."""
    parser.add_argument(
        "paths",
        nargs="+",
        metavar="PATH",
        help=f"messages, or folders of *{SUFFIX} files; - reads a message from stdin",
    )


def each_message(
    arguments: argparse.Namespace, output: Output, look: Callable[[Any], Any]
) -> tuple[list[tuple[Path, Any]], bool]:
    """Look at every message, and go on past those that cannot be looked at.

    Returns
    -------
    list of (path, what ``look`` returned), and whether every message could be looked at
    """
    found: list[tuple[Path, Any]] = []
    complete = True
    for path in _files(arguments.paths):
        if path is not STDIN and not path.exists():
            complete = False
            output.error(str(missing(path)))
            continue
        known = None if path is STDIN else recognize(path)
        if known is not None and known.noun != "a message":
            complete = False
            output.error(f"{path} is {known.noun}, not a message", hint=known.hint)
            continue
        try:
            found.append((path, look(_stdin() if path is STDIN else path)))
        except MMFormatError as error:
            complete = False
            output.error(f"{path}: {error}", hint=error.hint)
    return found, complete


def _stdin() -> bytes:
    most = Limits().message_nbytes
    data = sys.stdin.buffer.read(most + 1)
    if len(data) > most:
        raise LimitError(f"expected a message of at most {most:,} bytes on stdin, got more")
    return data


def _files(paths: list[str]) -> Iterator[Path]:
    for text in paths:
        path = STDIN if text == "-" else Path(text)
        if path is STDIN or not path.is_dir():
            yield path
            continue
        within = sorted(path.rglob(f"*{SUFFIX}"))
        if not within:
            raise MMFormatError(f"expected *{SUFFIX} files in {path}, got none")
        yield from within
