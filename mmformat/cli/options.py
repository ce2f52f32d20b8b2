"""What the commands' parsers have in common, and how a command is registered."""

from __future__ import annotations

import argparse
import difflib
import re
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

from mmformat._sizes import parse_nbytes
from mmformat.errors import ModelError

if TYPE_CHECKING:
    from mmformat.cli.output import Output

__all__ = [
    "Parser",
    "Run",
    "Subparsers",
    "UsageError",
    "add_command",
    "add_common",
    "build",
    "positive",
    "size",
]

Subparsers: TypeAlias = "argparse._SubParsersAction[Parser]"
"""What ``register(subparsers)`` of a command's module is given."""

Run: TypeAlias = "Callable[[argparse.Namespace, Output], int]"
"""A command: it returns 0 for yes and 1 when the answer is no, and raises when it cannot run."""


class UsageError(Exception):
    """Say that the arguments have no meaning; the exit status is 2."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class Parser(argparse.ArgumentParser):
    """Parse arguments; what is wrong with them is an error in the house's form."""

    def error(self, message: str) -> NoReturn:
        """Raise UsageError instead of printing.

        Raises
        ------
        UsageError
            Always.
        """
        meant = self._meant(message)
        hint = (
            f"{self.prog} --help" if meant is None else f"did you mean {meant}? {self.prog} --help"
        )
        raise UsageError(message, hint=hint)

    def _print_message(self, message: str, file: Any = None) -> None:
        # argparse's own ignores a full disk; the status would say that all was printed.
        if message:
            (file or sys.stderr).write(message)

    def _meant(self, message: str) -> str | None:
        """Return the command or option that is nearest to one that there is not."""
        choice = re.search(r"invalid choice: '(.+?)' \(choose from (.+)\)", message)
        if choice is not None:
            wrong, known = choice[1], re.findall(r"[\w-]+", choice[2])
        elif (option := re.search(r"unrecognized arguments: (--?[\w-]+)", message)) is not None:
            wrong, known = option[1], sorted(_options_below(self))
        else:
            return None
        near = difflib.get_close_matches(wrong, known, n=1, cutoff=0.7)
        return near[0] if near else None


def _options_below(parser: argparse.ArgumentParser) -> set[str]:
    found = set(parser._option_string_actions)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                found |= _options_below(below)
    return found


def build(make: Callable[..., Parser], /, **options: Any) -> Parser:
    """Return a parser whose description and examples keep their line breaks."""
    return make(formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **options)


def add_common(
    parser: argparse.ArgumentParser, *, nested: bool = False, json_file: bool = False
) -> None:
    """Add ``--json`` and ``--debug``; a nested parser leaves what its parent parsed.

    With ``json_file`` the option takes the name of a file; without one it still means stdout.
    """
    default: Any = argparse.SUPPRESS if nested else False
    group = parser.add_argument_group("everywhere")
    if json_file:
        group.add_argument(
            "--json",
            nargs="?",
            const=True,
            default=default,
            metavar="FILE",
            help="print JSON on stdout, or write it to a file",
        )
    else:
        group.add_argument(
            "--json", action="store_true", default=default, help="print JSON on stdout"
        )
    group.add_argument(
        "--debug", action="store_true", default=default, help="show a traceback for an error"
    )


def add_command(
    subparsers: Subparsers,
    name: str,
    *,
    run: Run,
    caption: str,
    description: str | None = None,
    epilog: str | None = None,
    json_file: bool = False,
) -> Parser:
    """Add a command to the front desk and return its parser, for arguments of its own.

    Parameters
    ----------
    subparsers : Subparsers
        What ``register`` was given.
    name : str
        The word on the command line.
    run : callable
        ``run(arguments, output) -> int``; see :data:`Run`.
    caption : str
        One line for the list of commands.
    description, epilog : str, optional
        For the command's own ``--help``: more about it, and examples.
    json_file : bool
        Whether ``--json`` may name a file.
    """
    parser = build(
        subparsers.add_parser,
        name=name,
        help=caption,
        description=description or caption,
        epilog=epilog,
    )
    add_common(parser, nested=True, json_file=json_file)
    parser.set_defaults(run=run)
    return parser


def positive(text: str) -> int:
    """Return a count of 1 or more, for an option's ``type``.

    Raises
    ------
    argparse.ArgumentTypeError
        When it is less.
    """
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, got {number}")
    return number


def size(text: str) -> int:
    """Return a number of bytes such as ``8GiB``, for an option's ``type``.

    Raises
    ------
    argparse.ArgumentTypeError
        If the text is not a size.
    """
    try:
        return parse_nbytes(text)
    except ModelError as error:
        raise argparse.ArgumentTypeError(error.reason) from error
