"""The element types of the wire, their sizes, and their names in numpy and torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from mmformat._extras import install
from mmformat.errors import MissingExtraError, ModelError

if TYPE_CHECKING:
    import torch

__all__ = ["ITEMSIZE", "numpy_dtype", "numpy_dtype_name", "torch_dtype", "torch_dtype_name"]

ITEMSIZE: Final[dict[str, int]] = {
    "bool": 1,
    "int8": 1,
    "int16": 2,
    "int32": 4,
    "int64": 8,
    "uint8": 1,
    "uint16": 2,
    "uint32": 4,
    "uint64": 8,
    "float16": 2,
    "float32": 4,
    "float64": 8,
    "bfloat16": 2,
    "float8_e4m3fn": 1,
    "float8_e5m2": 1,
    "float8_e4m3fnuz": 1,
    "float8_e5m2fnuz": 1,
    "complex64": 8,
    "complex128": 16,
}
"""Bytes of one element by dtype name; a name is the one that torch and numpy/ml_dtypes share."""

_ML_DTYPES: Final = frozenset(
    {"bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz"}
)
_NUMPY: Final[dict[str, np.dtype[Any]]] = {
    name: np.dtype(name) for name in ITEMSIZE if name not in _ML_DTYPES
}
_TORCH_NAMES: dict[torch.dtype, str] = {}
_TORCH: dict[str, torch.dtype] = {}


def numpy_dtype(name: str) -> np.dtype[Any]:
    """Return numpy's dtype for a wire name.

    Raises
    ------
    MissingExtraError
        For bfloat16 and float8 when ``ml_dtypes`` is not installed.
    ModelError
        For a name that is no dtype of the wire.
    """
    found = _NUMPY.get(name)
    if found is not None:
        return found
    if name not in _ML_DTYPES:
        raise ModelError(f"expected a dtype of the wire, got {name!r}", code="dtype")
    try:
        import ml_dtypes
    except ImportError as error:
        raise MissingExtraError(
            f"expected ml_dtypes for numpy arrays of {name}, but it is not installed",
            hint="pip install ml_dtypes, or ask for torch tensors",
        ) from error
    made: np.dtype[Any] = np.dtype(getattr(ml_dtypes, name))
    _NUMPY[name] = made
    return made


def numpy_dtype_name(dtype: np.dtype[Any]) -> str | None:
    """Return the wire name of a numpy dtype in native byte order, or None when it has none."""
    name = dtype.name
    size = ITEMSIZE.get(name)
    return name if size == dtype.itemsize and dtype.isnative and not dtype.hasobject else None


def torch_dtype(name: str) -> torch.dtype:
    """Return torch's dtype for a wire name.

    Raises
    ------
    MissingExtraError
        When torch is not installed.
    ModelError
        For a name that is no dtype of the wire.
    """
    found = _TORCH.get(name)
    if found is not None:
        return found
    if name not in ITEMSIZE:
        raise ModelError(f"expected a dtype of the wire, got {name!r}", code="dtype")
    _learn_torch()
    return _TORCH[name]


def torch_dtype_name(dtype: torch.dtype) -> str | None:
    """Return the wire name of a torch dtype, or None when it has none."""
    if not _TORCH_NAMES:
        _learn_torch()
    return _TORCH_NAMES.get(dtype)


def _learn_torch() -> None:
    # An import, not sys.modules: another thread may be half-way through importing it.
    try:
        import torch
    except ImportError as error:
        raise MissingExtraError(
            "expected torch for torch tensors, but it is not installed",
            hint=install("torch"),
        ) from error
    for name in ITEMSIZE:
        dtype = getattr(torch, name)
        _TORCH[name] = dtype
        _TORCH_NAMES[dtype] = name
