"""Element types of the wire, and the bytes of torch and numpy tensors."""

from __future__ import annotations

import math
import sys
from operator import index
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias, Union

import numpy as np
import numpy.typing as npt

from mmformat._arrow import Buffer, buffer_of, view_of_address
from mmformat._extras import install
from mmformat.errors import MissingExtraError, ModelError

if TYPE_CHECKING:
    import torch

    from mmformat.model.dictionary import DictionaryTensor
    from mmformat.model.source import Source

__all__ = [
    "ITEMSIZE",
    "ML_DTYPES",
    "Feature",
    "TensorSpec",
    "TensorValue",
    "is_tensor",
    "is_torch",
    "numpy_dtype",
    "numpy_dtype_name",
    "tensor_buffer",
    "tensor_spec",
    "torch_dtype",
    "torch_dtype_name",
]

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

ML_DTYPES: Final = frozenset(
    {"bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz"}
)
_NUMPY: Final[dict[str, np.dtype[Any]]] = {
    name: np.dtype(name) for name in ITEMSIZE if name not in ML_DTYPES
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
    if name not in ML_DTYPES:
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


TensorValue: TypeAlias = Union["torch.Tensor", "npt.NDArray[Any]", "DictionaryTensor"]
"""One tensor: torch, numpy, or dictionary-encoded."""

Feature: TypeAlias = Union[TensorValue, "Source", "list[Any]", "tuple[Any, ...]", None]
"""What ``feature`` and ``precomputed_embeddings`` may be: a tensor, a source, a list of them."""

MAX_NBYTES: Final = 2**62
"""More than any tensor; a product of extents over it is a lie."""


class TensorSpec(NamedTuple):
    """Say what a tensor is, without its bytes.

    Parameters
    ----------
    dtype : str
        Name of the element type, a key of ``ITEMSIZE``.
    shape : tuple of int
        Extents.
    """

    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of the elements, C-contiguous.

        Raises
        ------
        ModelError
            When the dtype is none of the wire, or the shape no extents.
        """
        try:
            return ITEMSIZE[self.dtype] * math.prod(map(index, self.shape))
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(
                f"expected a dtype of the wire and extents, got {self.dtype!r:.60} and "
                f"{self.shape!r:.60}",
                code="dtype",
            ) from error


def is_torch(value: object) -> bool:
    """Say whether ``value`` is a torch tensor, without importing torch."""
    # Half-imported by another thread it has no Tensor yet, and nobody can have one.
    tensor = getattr(sys.modules.get("torch"), "Tensor", None)
    return tensor is not None and isinstance(value, tensor)


def is_tensor(value: object) -> bool:
    """Say whether ``value`` is a torch tensor or a numpy array (not a dictionary tensor)."""
    return isinstance(value, np.ndarray) or is_torch(value)


def tensor_spec(value: Any, *, path: str = "$") -> TensorSpec:
    """Return dtype and shape of a torch tensor or a numpy array.

    Raises
    ------
    ModelError
        When the value is of a dtype, layout or device that has no meaning on the wire.
    """
    if isinstance(value, np.ndarray):
        if isinstance(value, np.ma.MaskedArray):
            raise ModelError(
                "expected an array without a mask, which would be lost",
                path=path,
                hint="send x.data and x.mask, or x.filled()",
            )
        name = numpy_dtype_name(value.dtype)
        if name is None:
            hint = "convert it, as with x.astype(np.float32)"
            if not value.dtype.isnative:
                hint = "convert it: x.astype(x.dtype.newbyteorder('='))"
            raise ModelError(
                f"expected a dtype of the wire, got numpy {value.dtype!r}",
                path=path,
                hint=hint,
                code="dtype",
            )
        return TensorSpec(name, value.shape)
    name = torch_dtype_name(value.dtype)
    if name is None:
        raise ModelError(
            f"expected a dtype of the wire, got {value.dtype}", path=path, code="dtype"
        )
    if value.is_nested:  # its shape cannot even be asked for
        raise ModelError("expected a dense tensor, got a nested one", path=path)
    return TensorSpec(name, tuple(value.shape))


def tensor_buffer(value: Any, *, path: str = "$") -> Buffer:
    """Return the bytes of a torch tensor or a numpy array, in C order.

    Raises
    ------
    ModelError
        When the tensor is not dense, not on the CPU, or of a dtype without a meaning on the wire.

    Notes
    -----
    **Copies**: none when the value is C-contiguous; otherwise the bytes of the view, once (a
    conjugate or negative torch view is resolved). **Lifetime**: the buffer keeps the tensor alive;
    writing to the tensor changes the buffer.
    """
    if isinstance(value, np.ndarray):
        tensor_spec(value, path=path)
        if value.flags.c_contiguous and value.nbytes:
            # Not py_buffer: numpy refuses the buffer protocol for ml_dtypes' element types.
            return view_of_address(value.ctypes.data, value.nbytes, value)
        return buffer_of(np.ascontiguousarray(value).reshape(-1).view(np.uint8))
    return _torch_buffer(value, path)


def _torch_buffer(value: torch.Tensor, path: str) -> Buffer:
    import torch

    if value.layout is not torch.strided or value.is_quantized or value.is_nested:
        raise ModelError(
            f"expected a dense tensor, got layout {value.layout}",
            path=path,
            hint="use x.to_dense()",
        )
    if value.device.type != "cpu":
        raise ModelError(
            f"expected a tensor on the CPU, got one on {value.device}",
            path=path,
            hint="use x.cpu()",
        )
    if value.requires_grad:
        value = value.detach()
    if value.is_conj():
        value = value.resolve_conj()
    if value.is_neg():
        value = value.resolve_neg()
    if not value.is_contiguous():
        value = value.contiguous()
    return view_of_address(value.data_ptr(), value.nbytes, value)
