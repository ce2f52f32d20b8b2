"""What callers pass, checked at the door, so that a slip is named and nothing foreign escapes."""

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
    """Raise unless the value is of one of the kinds; None passes where NoneType is one of them.

    Parameters
    ----------
    expected : str
        What it should have been, in words.
    name : str
        The parameter's name.
    error, code
        What is raised.

    Raises
    ------
    MMFormatError
        Of the class that was named.
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
    """Raise unless the value is one of the words; an array is none, however it compares.

    Raises
    ------
    MMFormatError
        Of the class that was named.
    """
    if not isinstance(value, str) or value not in choices:
        raise error(
            f"expected one of {', '.join(map(repr, choices))}, got {value!r:.60}",
            path=f"$.{name}",
            code=code,
        )


def check_callable(value: object, *, name: str, error: type[MMFormatError] = ModelError) -> None:
    """Raise unless the value can be called, or is None.

    Raises
    ------
    MMFormatError
        Of the class that was named.
    """
    if value is not None and not callable(value):
        raise error(f"expected a callable, got {type(value).__name__}", path=f"$.{name}")


def check_bounds(bounds: DataclassInstance) -> None:
    """Raise unless every field of a dataclass of bounds is a positive int; True is none.

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
    """Return a path that the system can be asked about.

    Raises
    ------
    MMFormatError
        Of the class that was named, also for the bytes of a path and for one with a null in it.
    """
    text = os.fspath(value) if isinstance(value, (str, os.PathLike)) else value
    if not isinstance(text, str) or "\0" in text:
        got = type(value).__name__ if not isinstance(text, str) else repr(text)
        raise error(f"expected a path, got {got}", path=f"$.{name}", code=code)
    return Path(text)
