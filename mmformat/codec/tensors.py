"""Tensors from the bytes of a message, where they lie."""

from __future__ import annotations

import ctypes
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mmformat._arrow import buffer_of
from mmformat.model.dtypes import numpy_dtype, torch_dtype

if TYPE_CHECKING:
    import torch

__all__ = ["numpy_view", "torch_view"]


def numpy_view(data: Any, dtype: str, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """Return an array over ``data``; read-only where the bytes are.

    Notes
    -----
    **Copies**: none. **Lifetime**: the array keeps the bytes alive.
    """
    if math.prod(shape) == 0:
        return np.empty(shape, numpy_dtype(dtype))
    return np.frombuffer(data, numpy_dtype(dtype)).reshape(shape)


def torch_view(data: Any, dtype: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Return a tensor over ``data``, whether it is writable or not.

    Notes
    -----
    **Copies**: none. torch knows no read-only tensors: writing to one over immutable bytes changes
    them. **Lifetime**: the tensor keeps the bytes alive.
    """
    element = torch_dtype(dtype)  # says which extra is missing
    import torch

    if math.prod(shape) == 0:
        return torch.empty(shape, dtype=element)
    if type(data) is not memoryview or data.readonly:
        data = _writable_alias(data)
    return torch.frombuffer(data, dtype=element).view(shape)


def _writable_alias(data: Any) -> Any:
    # torch.frombuffer warns at every read-only buffer, and its check cannot be turned off.
    buffer = buffer_of(data)
    array = (ctypes.c_char * buffer.size).from_address(buffer.address)
    array._owner = buffer  # type: ignore[attr-defined]  # keeps the bytes alive
    return array
