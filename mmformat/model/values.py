"""The one definition of the values that a message carries."""

from __future__ import annotations

import sys
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final, TypeAlias, Union

import numpy as np
import numpy.typing as npt

from mmformat.errors import MMFormatError, ModelError
from mmformat.model.dictionary import DictionaryTensor
from mmformat.model.source import Source
from mmformat.model.tensors import is_tensor, numpy_dtype_name

if TYPE_CHECKING:
    import torch

__all__ = ["Budget", "Feature", "TensorValue", "check_values", "kind_of", "refusal_of"]

TensorValue: TypeAlias = Union["torch.Tensor", "npt.NDArray[Any]", "DictionaryTensor"]
"""One tensor: torch, numpy, or dictionary-encoded."""

Feature: TypeAlias = Union[TensorValue, "Source", "list[Any]", "tuple[Any, ...]", None]
"""What ``feature`` and ``precomputed_embeddings`` may be: a tensor, a source, a list of them."""

MOST_VALUES: Final = 2**20
"""Values in one item or request: lists that hold one another many times have no end."""

MOST_DEPTH: Final = 200
"""Nesting of values; a cycle is deeper."""

_KINDS: Final[dict[type, str]] = {
    type(None): "none",
    bool: "bool",
    int: "int",
    float: "float",
    complex: "complex",
    str: "str",
    bytes: "bytes",
    bytearray: "bytearray",
    list: "list",
    tuple: "tuple",
    dict: "dict",
    OrderedDict: "dict",
    np.ndarray: "tensor",
    DictionaryTensor: "dictionary",
}


def kind_of(value: Any) -> str | None:
    """Return the kind as which a message carries a value, or None if it cannot.

    Returns
    -------
    {"none", "bool", "int", "float", "complex", "str", "bytes", "bytearray", "list", "tuple", \
"dict", "scalar", "tensor", "dictionary"} or None
        An OrderedDict travels as a dict (the order of both is kept), a named tuple and a
        torch.Size as a tuple. Other subclasses would lose what they add, and do not travel.

    Examples
    --------
    >>> kind_of(OrderedDict(a=1)), kind_of(memoryview(b"x"))
    ('dict', None)
    """
    kind = _KINDS.get(type(value))
    if kind is not None:
        return kind
    if isinstance(value, DictionaryTensor):
        return "dictionary"
    if is_tensor(value):
        return "tensor"
    if isinstance(value, np.generic):
        return "scalar" if numpy_dtype_name(value.dtype) is not None else None
    if isinstance(value, tuple):
        size = getattr(sys.modules.get("torch"), "Size", None)
        is_named = type(value).__bases__ == (tuple,) and hasattr(value, "_fields")
        return "tuple" if is_named or type(value) is size else None
    return None


def refusal_of(value: Any, *, path: str) -> ModelError:
    """Return the error for a value that no message carries."""
    hint = "send plain Python values, torch tensors or numpy arrays"
    if isinstance(value, Source):
        hint = "decode it first: mm.materialize(inputs, processor=...)"
    elif isinstance(value, (str, int, float, bytes, list, tuple, dict)):
        base = next(kind for kind in type(value).__mro__ if kind.__module__ == "builtins")
        hint = f"convert it: {base.__name__}(value)"
    elif isinstance(value, memoryview):
        hint = "convert it: bytes(value)"
    return ModelError(
        f"a message cannot carry a {type(value).__module__}.{type(value).__qualname__}",
        path=path,
        hint=hint,
        code="not-materialized" if isinstance(value, Source) else None,
    )


class Budget:
    """Count values and their nesting; both are bounded.

    Parameters
    ----------
    error : type of MMFormatError
        What :meth:`enter` raises.
    """

    __slots__ = ("count", "error")

    def __init__(self, error: type[MMFormatError] = ModelError) -> None:
        self.count = 0
        self.error = error

    def enter(self, nvalues: int, depth: int, *, path: str) -> None:
        """Count the values of one container.

        Raises
        ------
        MMFormatError
            Of the given class, with code ``attributes-depth``, if there are too many values or
            they are nested too deeply.
        """
        self.count += nvalues + 1
        if self.count > MOST_VALUES or depth > MOST_DEPTH:
            much = f"more than {MOST_VALUES:,} values"
            if depth > MOST_DEPTH:
                much = f"values nested more than {MOST_DEPTH} deep"
            raise self.error(
                f"a message cannot carry {much}",
                path=path if len(path) <= 80 else f"{path[:80]}...",
                hint="does a list or dict hold itself, or one other many times?",
                code="attributes-depth",
            )


def check_values(value: Any, *, path: str) -> None:
    """Check that a message can carry a value and everything in it.

    Raises
    ------
    ModelError
        Naming the first value that cannot be encoded.
    """
    _check(value, path, 0, Budget())


def _check(value: Any, path: str, depth: int, budget: Budget) -> None:
    kind = kind_of(value)
    if kind is None:
        raise refusal_of(value, path=path)
    if kind == "dict":
        budget.enter(len(value), depth, path=path)
        for key, part in value.items():
            _check(key, path, depth + 1, budget)
            _check(part, f"{path}[{key!r:.60}]", depth + 1, budget)
    elif kind in ("list", "tuple"):
        budget.enter(len(value), depth, path=path)
        for index, part in enumerate(value):
            _check(part, f"{path}[{index}]", depth + 1, budget)
