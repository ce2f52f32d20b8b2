"""Parse the command line, run one command, and turn what happened into an exit status."""

from __future__ import annotations

import importlib
import importlib.util
import io
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from mmformat._interpreter import is_command
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

exit status: 0 yes; 1 the answer is no; 2 wrong usage; 3 could not run; 130 interrupted;
             141 the reader of the output went away
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
    _replace_closed_streams()
    try:
        status = _run(argv, output, parser or _parser)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        _discard_stdout()
        return BROKEN_PIPE
    except OSError as error:
        _discard_stdout()
        output.error(f"cannot write to stdout: {error.strerror or error}")
        return CANNOT_RUN
    return status


class _ClosedOutput(io.TextIOBase):
    """Stand for the stdout of a process that was started without one."""

    @property
    def buffer(self) -> _ClosedOutput:
        return self

    def write(self, data: object) -> int:
        raise MMFormatError("cannot write to stdout: it is closed")


def _replace_closed_streams() -> None:
    """Make data on a closed stdout an error, and notes on a closed stderr nothing.

    Without this ``print`` fails on the first, and writes the notes to stdout instead of the second.
    """
    if sys.stdout is None:
        sys.stdout = _ClosedOutput()
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - until the end


def _discard_stdout() -> None:
    # Nobody can have what is still buffered; the interpreter must not complain at exit either.
    if isinstance(sys.stdout, _ClosedOutput):
        return
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)


class _Interrupts:
    """Note that SIGINT came: a module interrupted while it is imported raises its own error."""

    seen = False

    def __call__(self, number: int, frame: object) -> None:
        self.seen = True
        raise KeyboardInterrupt


@contextmanager
def _interrupts() -> Iterator[_Interrupts]:
    """Turn SIGINT into KeyboardInterrupt while a command runs; afterwards it ends the process."""
    found = _Interrupts()
    if threading.current_thread() is not threading.main_thread():
        yield found
        return
    before = signal.getsignal(signal.SIGINT)
    if before is signal.SIG_IGN:
        yield found
        return
    signal.signal(signal.SIGINT, found)
    try:
        yield found
    finally:
        # At the interpreter's end a KeyboardInterrupt would be a traceback.
        signal.signal(signal.SIGINT, signal.SIG_DFL if is_command() else before)


def _run(argv: Sequence[str] | None, output: Output, parser: Callable[[], Parser]) -> int:
    with _interrupts() as interrupts:
        return _run_command(argv, output, parser, interrupts)


def _run_command(
    argv: Sequence[str] | None,
    output: Output,
    parser: Callable[[], Parser],
    interrupts: _Interrupts,
) -> int:
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
        if interrupts.seen:
            output.note("interrupted")
            return INTERRUPTED
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
