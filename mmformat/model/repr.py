"""Short texts of values: shapes and dtypes, never pixels."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from typing import Any

from mmformat.model.tensors import is_tensor

__all__ = [
    "megabytes",
    "printable",
    "repr_of_fields",
    "shown",
]

PARTS = 4
CHARACTERS = 60


def shown(value: Any) -> str:
    """Return a short text for any value of the model.

    Examples
    --------
    >>> import numpy as np
    >>> shown({"pixel_values": [np.zeros((2, 3), np.float32)] * 6})
    "{'pixel_values': [float32[2, 3], float32[2, 3], float32[2, 3], float32[2, 3], ... 2 more]}"
    """
    if is_tensor(value):
        dtype = str(value.dtype).removeprefix("torch.")
        return f"{dtype}[{', '.join(map(str, value.shape))}]"
    if type(value) is dict:
        return "{" + _some(f"{key!r}: {shown(part)}" for key, part in value.items()) + "}"
    if type(value) is list:
        return "[" + _some(map(shown, value)) + "]"
    if type(value) is tuple:
        return "(" + _some(map(shown, value)) + ")"
    if isinstance(value, Enum):
        return str(value)
    text = repr(value)
    long = isinstance(value, (str, bytes, bytearray, int)) and len(text) > CHARACTERS
    return f"{text[:CHARACTERS]}..." if long else text


def repr_of_fields(value: object, names: Iterable[str]) -> str:
    """Return ``Class(name=value, ...)`` with the fields that are not None or empty."""
    parts = [(name, getattr(value, name)) for name in names]
    texts = [f"{name}={shown(part)}" for name, part in parts if not _nothing(part)]
    return f"{type(value).__name__}({', '.join(texts)})"


def printable(text: str) -> str:
    r"""Return the text with control characters escaped: names come out of other people's files.

    >>> printable("a" + chr(27) + "[2J")
    'a\\x1b[2J'
    """
    return "".join(
        each if each.isprintable() or each == "\n" else each.encode("unicode_escape").decode()
        for each in text
    )


def megabytes(nbytes: float) -> str:
    """Return a number of bytes as people read it.

    >>> megabytes(25_758_720), megabytes(602_112), megabytes(180)
    ('25.8 MB', '602.1 kB', '180 B')
    """
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if nbytes >= size:
            return f"{nbytes / size:.1f} {unit}"
    return f"{nbytes:.0f} B"


def _nothing(value: Any) -> bool:
    return value is None or (type(value) in (dict, list) and not value)


def _some(parts: Iterable[str]) -> str:
    texts = list(parts)
    more = len(texts) - PARTS
    return ", ".join(texts[:PARTS] + ([f"... {more} more"] if more > 0 else []))
