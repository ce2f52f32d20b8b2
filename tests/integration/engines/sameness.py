"""Compare values of engines field by field: types, dtypes, shapes and bytes, not just `==`."""

from __future__ import annotations

import dataclasses
import enum
import math
from collections import UserDict
from typing import Any

import numpy as np
import torch


def difference(a: Any, b: Any, path: str = "$") -> str | None:
    """Return where two values differ, or None."""
    if type(a) is not type(b):
        return f"{path}: {type(a)} is not {type(b)}"
    if isinstance(a, torch.Tensor):
        same = a.dtype == b.dtype and a.shape == b.shape
        if same and a.numel():
            same = torch.equal(_bytes(a), _bytes(b))
        return None if same else f"{path}: tensors differ"
    if isinstance(a, np.ndarray):
        same = a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
        return None if same else f"{path}: arrays differ"
    if isinstance(a, (dict, UserDict)):
        if list(a) != list(b):
            return f"{path}: keys {list(a)} are not {list(b)}"
        return _first((a[key], b[key], f"{path}[{key!r}]") for key in a)
    if isinstance(a, (list, tuple)):
        if len(a) != len(b):
            return f"{path}: {len(a)} parts, not {len(b)}"
        return _first((x, y, f"{path}[{i}]") for i, (x, y) in enumerate(zip(a, b, strict=True)))
    if isinstance(a, enum.Enum):
        return None if a is b else f"{path}: {a} is not {b}"
    if hasattr(a, "__struct_fields__") or dataclasses.is_dataclass(a):
        names = getattr(a, "__struct_fields__", None) or [f.name for f in dataclasses.fields(a)]
        found = _first((getattr(a, n), getattr(b, n), f"{path}.{n}") for n in names)
        extra_a, extra_b = (
            {k: v for k, v in getattr(x, "__dict__", {}).items() if k not in names} for x in (a, b)
        )
        return found or difference(extra_a, extra_b, f"{path}.__dict__")
    return None if a == b or _both_nan(a, b) else f"{path}: {a!r} is not {b!r}"


def _both_nan(a: Any, b: Any) -> bool:
    return isinstance(a, float) and math.isnan(a) and math.isnan(b)


def _first(parts: Any) -> str | None:
    return next((found for a, b, path in parts if (found := difference(a, b, path))), None)


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)
