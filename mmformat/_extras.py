"""Import an optional dependency, or name the extra to install."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Final

from mmformat.errors import MissingExtraError

__all__ = ["DISTRIBUTION", "install", "require"]

DISTRIBUTION: Final = "mmformat-arrow"
"""The name on PyPI; the import name is ``mmformat``."""


def install(extra: str) -> str:
    """Return the command that installs an extra of this package.

    >>> install("media")
    "pip install 'mmformat-arrow[media]'"
    """
    return f"pip install '{DISTRIBUTION}[{extra}]'"


def require(module: str, *, extra: str) -> ModuleType:
    """Import ``module``, or say which extra brings it.

    Parameters
    ----------
    module : str
        The dotted name to import, such as ``"PIL.Image"``.
    extra : str
        The extra of this package that installs it, such as ``"media"``.

    Returns
    -------
    types.ModuleType
        The module that the dotted name stands for.

    Raises
    ------
    MissingExtraError
        When the module's distribution is not installed. An installed module that fails while it
        is imported keeps its own error: a broken install must not look like a missing one.

    Examples
    --------
    >>> require("json", extra="cli").dumps([1])
    '[1]'
    >>> try:
    ...     require("no_such_module", extra="media")
    ... except ImportError as error:
    ...     print(error.hint)
    pip install 'mmformat-arrow[media]'
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        top = module.partition(".")[0]
        if error.name is None or error.name.partition(".")[0] != top:
            raise  # `module` is there and lacks something of its own
        # The package that is absent, not the part of it that was asked for first.
        raise MissingExtraError(
            f"the module {error.name!r} is not installed",
            hint=install(extra),
        ) from error
