"""Validate arguments at the API boundary."""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from mmformat.errors import MMFormatError, ModelError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

__all__ = ["check_bounds", "check_callable", "check_path", "check_text", "check_type"]


def check_type(
    value: object,
    kinds: type | tuple[type, ...],
    expected: str,
    *,
    name: str,
    error: type[MMFormatError] = ModelError,
    code: str | None = None,
) -> None:
    """Check the type of a value; None passes if NoneType is among the types.

    Parameters
    ----------
    expected : str
        The expected type, as text.
    name : str
        The parameter's name.
    error, code
        The error to raise.

    Raises
    ------
    MMFormatError
        Of the given class.
    """
    if not isinstance(value, kinds):
        raise error(f"expected {expected}, got {type(value).__name__}", path=f"$.{name}", code=code)


def check_text(
    value: object,
    choices: Collection[str],
    *,
    name: str,
    error: type[MMFormatError] = ModelError,
    code: str | None = None,
) -> None:
    """Check that a value is one of the given texts; an array never is.

    Raises
    ------
    MMFormatError
        Of the given class.
    """
    if not isinstance(value, str) or value not in choices:
        raise error(
            f"expected one of {', '.join(map(repr, choices))}, got {value!r:.60}",
            path=f"$.{name}",
            code=code,
        )


def check_callable(value: object, *, name: str, error: type[MMFormatError] = ModelError) -> None:
    """Check that a value is callable or None.

    Raises
    ------
    MMFormatError
        Of the given class.
    """
    if value is not None and not callable(value):
        raise error(f"expected a callable, got {type(value).__name__}", path=f"$.{name}")


def check_bounds(bounds: DataclassInstance) -> None:
    """Check that every field of a dataclass is a positive int, and not a bool.

    Raises
    ------
    ModelError
        Naming the field.
    """
    for field in fields(bounds):
        value = getattr(bounds, field.name)
        if type(value) is not int or value < 1:
            raise ModelError(f"expected a positive int, got {value!r}", path=f"$.{field.name}")


def check_path(
    value: object,
    *,
    name: str,
    error: type[MMFormatError] = ModelError,
    code: str | None = None,
) -> Path:
    """Return a valid path.

    Raises
    ------
    MMFormatError
        Of the given class; also for bytes and for text with a null byte.
    """
    text = os.fspath(value) if isinstance(value, (str, os.PathLike)) else value
    if not isinstance(text, str) or "\0" in text:
        got = type(value).__name__ if not isinstance(text, str) else repr(text)
        raise error(f"expected a path, got {got}", path=f"$.{name}", code=code)
    return Path(text)
