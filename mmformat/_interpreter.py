"""Refuse a subinterpreter, and end the command quietly when it is interrupted while it imports.

Both happen when this module is imported, which the package does before it imports numpy.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from importlib import import_module
from pathlib import PurePath

from mmformat.errors import UnsupportedInterpreterError

__all__ = ["is_command", "is_main_interpreter"]


def is_main_interpreter() -> bool:
    """Say whether this is the process's main interpreter, as far as Python tells.

    Examples
    --------
    >>> is_main_interpreter()
    True
    """
    for name in ("_interpreters", "_xxsubinterpreters"):  # since 3.13, and before
        try:
            module = import_module(name)
        except ImportError:
            continue
        return bool(module.get_current() == module.get_main())
    return True


def is_command() -> bool:
    """Say whether this process runs the command line: ``mmformat`` or ``python -m mmformat``.

    Examples
    --------
    >>> is_command()
    False
    """
    started = sys.orig_argv
    if "-m" in started:
        # Python's own options come first, so the first -m is its.
        return started[started.index("-m") + 1 :][:1] == ["mmformat"]
    return PurePath(sys.argv[0] if sys.argv else "").name == "mmformat"


def _end(number: int, frame: object) -> None:
    # Raising KeyboardInterrupt here would end in a traceback, or in a module's own ImportError.
    os.write(2, b"interrupted\n")
    os._exit(130)


if (
    is_command()
    and threading.current_thread() is threading.main_thread()
    and signal.getsignal(signal.SIGINT) is signal.default_int_handler
):
    signal.signal(signal.SIGINT, _end)  # until the command runs, which cleans up after itself


if not is_main_interpreter():
    raise UnsupportedInterpreterError(
        "expected the main interpreter, got a subinterpreter, where numpy and pyarrow do not work",
        hint="use threads or processes; under mod_wsgi: WSGIApplicationGroup %{GLOBAL}",
    )
