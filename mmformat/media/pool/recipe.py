"""Describe a processor in JSON, so that another process can make an equal one."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Mapping
from enum import Enum
from functools import partial
from typing import Any

from mmformat.errors import ModelError
from mmformat.media.sources import reason_of

__all__ = ["make", "recipe_of"]


def recipe_of(value: Any, *, path: str = "$") -> Any:
    """Return the JSON from which :func:`make` makes an equal value.

    Parameters
    ----------
    value : object
        A function or class at the top of a module, a text ``"module:name"`` that names one, a
        dataclass instance or a ``functools.partial`` of these, a mapping, list or tuple, or a
        plain JSON value.

    Raises
    ------
    ModelError
        For anything else: it could only be pickled, and nothing here is.

    Examples
    --------
    >>> recipe_of(len)
    {'name': 'builtins:len'}
    >>> make(recipe_of({"a": (1, 2.5)}))
    {'a': (1, 2.5)}
    """
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, Enum) and not isinstance(value, int):
        return {"member": [recipe_of(type(value), path=path), value.name]}
    if isinstance(value, (int, float)):
        return value if type(value) in (int, float) else value + 0
    if isinstance(value, (list, tuple)):
        parts = [recipe_of(each, path=f"{path}[{i}]") for i, each in enumerate(value)]
        return {"tuple": parts} if isinstance(value, tuple) else {"list": parts}
    if isinstance(value, Mapping):
        return {
            "mapping": [
                [recipe_of(key, path=path), recipe_of(each, path=f"{path}.{key}")]
                for key, each in value.items()
            ]
        }
    if isinstance(value, partial):
        return {
            "partial": recipe_of(value.func, path=path),
            "arguments": [recipe_of(each, path=path) for each in value.args],
            "keywords": {name: recipe_of(each, path=path) for name, each in value.keywords.items()},
        }
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            "make": recipe_of(type(value), path=path),
            "fields": {
                field.name: recipe_of(getattr(value, field.name), path=f"{path}.{field.name}")
                for field in dataclasses.fields(value)
                if field.init
            },
        }
    return {"name": _name_of(value, path)}


def make(recipe: Any) -> Any:
    """Make the value that a recipe describes; the named modules are imported.

    Raises
    ------
    ModelError
        When a name is not there.

    Notes
    -----
    A recipe names code to be run: take none from a stranger.
    """
    if not isinstance(recipe, dict):
        return recipe
    if "name" in recipe:
        return find(recipe["name"])
    if "member" in recipe:
        kind, name = recipe["member"]
        return make(kind)[name]
    if "tuple" in recipe:
        return tuple(make(each) for each in recipe["tuple"])
    if "list" in recipe:
        return [make(each) for each in recipe["list"]]
    if "mapping" in recipe:
        return {make(key): make(each) for key, each in recipe["mapping"]}
    if "partial" in recipe:
        keywords = {name: make(each) for name, each in recipe["keywords"].items()}
        return partial(make(recipe["partial"]), *map(make, recipe["arguments"]), **keywords)
    fields = {name: make(each) for name, each in recipe["fields"].items()}
    return make(recipe["make"])(**fields)


def find(name: str) -> Any:
    """Import the object that ``"module:name"`` names.

    Raises
    ------
    ModelError
        When there is no such thing.
    """
    module, colon, qualname = name.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in qualname.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, ValueError) as error:
        raise ModelError(f"cannot import {name!r}: {reason_of(error)}") from error
    if not colon:
        raise ModelError(f"expected 'module:name', got {name!r}")
    return found


def _name_of(value: Any, path: str) -> str:
    module = getattr(value, "__module__", None)
    qualname = getattr(value, "__qualname__", None)
    name = f"{module}:{qualname}"
    if module and qualname and module != "__main__" and "<" not in qualname:
        try:
            if find(name) is value:
                return name
        except ModelError:
            pass
    raise ModelError(
        f"another process cannot import this {type(value).__name__}",
        path=path,
        hint="use a function at the top of a module that is not __main__, one of this library's "
        "processors, or kind='thread'",
        code="not-importable",
    )
