"""Parse the command line, run one command, and turn what happened into an exit status."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Final

from mmformat.cli.options import Parser, UsageError, add_common, build
from mmformat.cli.output import Output
from mmformat.errors import MMFormatError

__all__ = ["COMMANDS", "main"]

COMMANDS: Final = (
    "demo",
    "encode",
    "inspect",
    "verify",
    "convert",
    "export",
    "bench",
    "shm",
    "net",
)
"""Each is a module of this room that exposes ``register(subparsers)``."""

CANNOT_RUN: Final = 3
USAGE: Final = 2
INTERRUPTED: Final = 130
BROKEN_PIPE: Final = 141

_DESCRIPTION: Final = """\
Encode prepared media once, and let every rank read the same bytes.

Data goes to stdout, everything else to stderr; --json gives data for programs.
"""

_EPILOG: Final = """\
examples:
  mmformat demo                          photographs to four ranks, checked bit for bit
  mmformat encode photo.jpg -o x.arrows  an image into a message
  mmformat inspect x.arrows              what is in it, without reading a tensor
  mmformat verify *.arrows               which promises of the format it breaks

exit status: 0 yes; 1 the answer is no; 2 wrong usage; 3 could not run; 130 interrupted
"""


def main(argv: Sequence[str] | None = None, *, parser: Callable[[], Parser] | None = None) -> int:
    """Run one command and return its exit status.

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments without the program's name; those of the process when omitted.
    parser : callable, optional
        Makes the parser of another program with commands like ours, as the benchmarks.

    Returns
    -------
    int
        0 yes, 1 the answer is no, 2 wrong usage, 3 could not run, 130 interrupted, 141 the reader
        of our output went away.

    Examples
    --------
    >>> main(["--version"])
    mmformat 0.1.0
    0
    """
    output = Output()
    try:
        status = _run(argv, output, parser or _parser)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read us has seen enough; the interpreter must not complain at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    return status


def _run(argv: Sequence[str] | None, output: Output, parser: Callable[[], Parser]) -> int:
    debug = "--debug" in (sys.argv[1:] if argv is None else argv)
    try:
        arguments = parser().parse_args(argv)
        output.wants_json = arguments.json is True
        status: int = arguments.run(arguments, output)
    except UsageError as error:
        output.error(str(error), hint=error.hint)
        return USAGE
    except SystemExit as end:  # argparse, after it has printed the help or the version
        return end.code if isinstance(end.code, int) else USAGE
    except KeyboardInterrupt:
        output.note("interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        raise
    except Exception as error:
        if debug:
            output.note(traceback.format_exc().rstrip())
        hint = getattr(error, "hint", None)
        if isinstance(error, (MMFormatError, OSError)):
            output.error(str(error), hint=hint)
        else:
            output.error(
                f"unexpected {type(error).__name__}: {error}",
                hint=hint or "run it again with --debug for the traceback",
            )
        return CANNOT_RUN
    return status


def _parser() -> Parser:
    from mmformat import __version__

    parser = build(Parser, prog="mmformat", description=_DESCRIPTION, epilog=_EPILOG)
    parser.add_argument("--version", action="version", version=f"mmformat {__version__}")
    add_common(parser)
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name in COMMANDS:
        module = f"mmformat.cli.{name}"
        if importlib.util.find_spec(module) is not None:
            importlib.import_module(module).register(subparsers)
    return parser
