"""Refuse to be imported by a subinterpreter, by name and before numpy fails there in its own way.

The check runs when this module is imported, which the package does first.
"""

from __future__ import annotations

from importlib import import_module

from mmformat.errors import UnsupportedInterpreterError

__all__ = ["is_main_interpreter"]


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


if not is_main_interpreter():
    raise UnsupportedInterpreterError(
        "expected the main interpreter, got a subinterpreter, where numpy and pyarrow do not work",
        hint="use threads or processes; under mod_wsgi: WSGIApplicationGroup %{GLOBAL}",
    )
