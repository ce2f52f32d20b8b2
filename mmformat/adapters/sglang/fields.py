"""Read the fields of the engine's dataclasses and msgspec structs alike."""

from __future__ import annotations

import dataclasses
import sys
from typing import Any, Final

__all__ = ["DATA", "FIELD", "OWN", "REQUEST_ITEMS", "RESERVED", "defaults_of", "fields_of"]

RESERVED: Final = "sglang."
"""Names that begin so in ``model_specific_data`` and ``request_data`` are this adapter's."""

DATA: Final = "sglang.data."
"""Put before a name of the model's own data that is also a field of the engine's class."""

FIELD: Final = "mm_item."
"""Put by :func:`mmformat.convert` before a field whose name the model's own data had taken."""

REQUEST_ITEMS: Final = "mm_items"
"""The engine's name of what the model calls ``items``."""

OWN: Final = frozenset(
    {
        "modality",
        "feature",
        "precomputed_embeddings",
        "offsets",
        "format",
        "model_specific_data",
        "hash",
        "pad_value",
        "identity",
    }
)
"""Fields of the engine's item that have a place of their own in the model's item."""

_MISSING: Final = object()
_KNOWN: Final[dict[type[Any], dict[str, Any]]] = {}


def defaults_of(cls: type[Any]) -> dict[str, Any]:
    """Return the names of a class's fields, each with what it is when nobody sets it.

    A field that must be set has a default that equals nothing else.

    Examples
    --------
    >>> @dataclasses.dataclass
    ... class Example:
    ...     size: int | None = None
    ...     names: list[str] = dataclasses.field(default_factory=list)
    >>> defaults_of(Example)
    {'size': None, 'names': []}
    """
    if cls not in _KNOWN:
        _KNOWN[cls] = _read(cls)  # reading a struct's fields evaluates every annotation
    return _KNOWN[cls]


def _read(cls: type[Any]) -> dict[str, Any]:
    if dataclasses.is_dataclass(cls):
        return {
            field.name: _default(field.default, field.default_factory, dataclasses.MISSING)
            for field in dataclasses.fields(cls)
        }
    msgspec = sys.modules.get("msgspec")
    if msgspec is None or not hasattr(cls, "__struct_fields__"):
        return {}
    return {
        field.name: _default(field.default, field.default_factory, msgspec.NODEFAULT)
        for field in msgspec.structs.fields(cls)
    }


def fields_of(value: Any) -> dict[str, Any]:
    """Return the fields of an object in order, then the attributes that somebody added to it."""
    found = {name: getattr(value, name) for name in defaults_of(type(value))}
    for name, part in getattr(value, "__dict__", {}).items():
        found.setdefault(name, part)
    return found


def _default(default: Any, factory: Any, missing: Any) -> Any:
    if default is not missing:
        return default
    return _MISSING if factory is missing else factory()
