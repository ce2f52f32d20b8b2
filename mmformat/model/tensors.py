"""Element types of the wire, and the bytes of torch and numpy tensors."""

from __future__ import annotations

import math
import sys
from operator import index
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
from numpy.lib.array_utils import byte_bounds

from mmformat._arrow import Buffer, allocated, buffer_of, view_of_address
from mmformat._extras import install
from mmformat.errors import MissingExtraError, ModelError

if TYPE_CHECKING:
    import torch


__all__ = [
    "ITEMSIZE",
    "ML_DTYPES",
    "StridedBytes",
    "TensorSpec",
    "is_tensor",
    "is_torch",
    "numpy_dtype",
    "numpy_dtype_name",
    "tensor_buffer",
    "tensor_part",
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
        If torch is not installed.
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


COPIED_NBYTES: Final = 4096
"""A smaller view with strides is copied at once."""

MAX_NBYTES: Final = 2**62
"""More than any tensor; a product of extents over it is a lie."""


class TensorSpec(NamedTuple):
    """Dtype and shape of a tensor.

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
            If the dtype is not one of the wire, or the shape is invalid.
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
    """Return whether ``value`` is a torch tensor, without importing torch."""
    # While another thread imports torch, it has no Tensor yet, so no value can be one.
    tensor = getattr(sys.modules.get("torch"), "Tensor", None)
    return tensor is not None and isinstance(value, tensor)


def is_tensor(value: object) -> bool:
    """Return whether ``value`` is a torch tensor or a numpy array (not a dictionary tensor)."""
    return isinstance(value, np.ndarray) or is_torch(value)


def tensor_spec(value: Any, *, path: str = "$") -> TensorSpec:
    """Return dtype and shape of a torch tensor or a numpy array.

    Raises
    ------
    ModelError
        If the value is of a dtype, layout or device that has no meaning on the wire.
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
    try:
        dtype, is_nested = value.dtype, value.is_nested
        shape = () if is_nested else tuple(value.shape)  # nested tensors have none
    except Exception as error:  # a subclass may raise anything
        raise _unreadable(value, error, path) from error
    name = torch_dtype_name(dtype)
    if name is None:
        raise ModelError(f"expected a dtype of the wire, got {dtype}", path=path, code="dtype")
    if is_nested:
        raise ModelError("expected a dense tensor, got a nested one", path=path)
    return TensorSpec(name, shape)


def _unreadable(value: object, error: Exception, path: str) -> ModelError:
    return ModelError(
        f"a {type(value).__name__} cannot be read: {type(error).__name__}: {error!s:.200}",
        path=path,
        hint="send a plain tensor that owns its memory, such as x.detach().clone()",
    )


def tensor_buffer(value: Any, *, path: str = "$") -> Buffer:
    """Return the bytes of a torch tensor or a numpy array, in C order.

    Raises
    ------
    ModelError
        If the tensor is not dense, not on the CPU, of a dtype without a meaning on the wire, or
        larger than its memory.

    Notes
    -----
    **Copies**: none of a C-contiguous value; otherwise the bytes of the view, once (a conjugate or
    negative torch view is resolved). A bool tensor with bytes other than 0 and 1 is copied with 1
    for each of them. **Lifetime**: the buffer keeps the tensor alive; writing to the tensor changes
    the buffer. **Cost**: every byte of a bool tensor is read.
    """
    part = tensor_part(value, path=path)
    return part.buffer() if isinstance(part, StridedBytes) else part


def tensor_part(value: Any, *, path: str = "$") -> Buffer | StridedBytes:
    """Return the bytes of a contiguous tensor, or a StridedBytes.

    Raises
    ------
    ModelError
        As :func:`tensor_buffer`.
    """
    try:
        if isinstance(value, np.ndarray):
            return _numpy_part(value, path)
        return _torch_part(value, path)
    except ModelError:
        raise
    except Exception as error:  # a subclass of torch's or numpy's may raise anything
        raise _unreadable(value, error, path) from error


def _numpy_part(value: npt.NDArray[Any], path: str) -> Buffer | StridedBytes:
    tensor_spec(value, path=path)
    if value.base is not None and value.size:
        _check_numpy_extent(value, path)
    if value.dtype == bool and value.size:
        value = _zeros_and_ones(np.ascontiguousarray(value))
    if not value.flags.c_contiguous and value.nbytes > COPIED_NBYTES:
        return StridedBytes(value, value.nbytes, path)
    if not value.flags.c_contiguous:
        value = np.ascontiguousarray(value)
    # Not py_buffer: numpy refuses the buffer protocol for ml_dtypes' element types.
    return view_of_address(value.ctypes.data, value.nbytes, value)


def _zeros_and_ones(value: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    raw = value.reshape(-1).view(np.uint8)
    return value if raw.max() <= 1 else (raw != 0).reshape(value.shape)


def _check_numpy_extent(value: npt.NDArray[Any], path: str) -> None:
    """Raise unless the elements lie in the memory of the array's owner; as_strided may pass it."""
    owner: Any = value.base
    while getattr(owner, "base", None) is not None and not is_torch(owner):
        owner = owner.base
    if isinstance(owner, np.ndarray):
        low, high = byte_bounds(owner)
    elif is_torch(owner):
        storage = owner.untyped_storage()
        low, high = storage.data_ptr(), storage.data_ptr() + storage.nbytes()
    else:
        try:
            buffer = buffer_of(owner)
        except (TypeError, ValueError, BufferError):
            return  # its own library knows
        low, high = buffer.address, buffer.address + buffer.size
    start, end = byte_bounds(value)
    if start < low or end > high:
        raise ModelError(
            f"the array reaches {max(low - start, 0) + max(end - high, 0):,} bytes beyond its "
            f"memory of {high - low:,}",
            path=path,
            hint="check the shape and strides of as_strided",
            code="extent",
        )


def _torch_part(value: torch.Tensor, path: str) -> Buffer | StridedBytes:
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
    tensor_spec(value, path=path)
    kind = type(value)
    if kind.__torch_dispatch__ is not torch.Tensor.__torch_dispatch__:
        # FakeTensor, MaskedTensor, DTensor: their elements are not those of their own memory.
        raise ModelError(
            f"expected a plain tensor, got a {kind.__name__}",
            path=path,
            hint="send the plain tensors that it is made of",
        )
    if not value.numel():
        return view_of_address(0, 0, value)
    check_torch_extent(value, path)
    if value.requires_grad:
        value = value.detach()
    if value.dtype == torch.bool:
        raw = value.contiguous().view(torch.uint8)
        value = raw.view(torch.bool) if int(raw.max()) <= 1 else raw != 0
    nbytes = value.nbytes
    is_strided = not value.is_contiguous() or value.is_conj() or value.is_neg()
    if is_strided and nbytes > COPIED_NBYTES:
        return StridedBytes(value, nbytes, path)
    if is_strided:
        value = value.resolve_conj().resolve_neg().contiguous()
    return view_of_address(value.data_ptr(), nbytes, value)


def check_torch_extent(value: torch.Tensor, path: str) -> None:
    """Raise unless the elements lie in the tensor's storage, which may be resized or absent."""
    storage = value.untyped_storage()
    reach = value.storage_offset() + 1
    reach += sum([(n - 1) * step for n, step in zip(value.shape, value.stride(), strict=True)])
    if reach * value.itemsize > storage.nbytes() or not value.data_ptr():
        raise ModelError(
            f"the tensor needs {reach * value.itemsize:,} bytes of storage and has "
            f"{storage.nbytes() if storage.data_ptr() else 0:,}",
            path=path,
            hint="was its storage resized, or is it a tensor without memory?",
            code="extent",
        )


class StridedBytes:
    """The bytes of a non-contiguous tensor in C order, copied only when they are written.

    Parameters
    ----------
    value : tensor
        torch or numpy, checked.
    nbytes : int
        Of its elements.
    path : str
        For errors.
    """

    __slots__ = ("_path", "_value", "nbytes")

    def __init__(self, value: Any, nbytes: int, path: str) -> None:
        self._value = value
        self._path = path
        self.nbytes = nbytes

    def __len__(self) -> int:
        return self.nbytes

    def head(self) -> bytes:
        """Return the first 4 bytes."""
        value = self._value
        places = zip(*np.unravel_index(range(-(-4 // value.itemsize)), value.shape), strict=True)
        if isinstance(value, np.ndarray):
            return b"".join([value[place].tobytes() for place in places])[:4]
        import torch

        some = torch.stack([value[place] for place in places]).resolve_conj().resolve_neg()
        return bytes(some.view(torch.uint8).tolist())[:4]

    def write_into(self, target: Any) -> None:
        """Write the elements to memory of as many bytes.

        Notes
        -----
        **Copies**: every byte once.
        """
        value = self._value
        if isinstance(value, np.ndarray):
            np.copyto(np.ndarray(value.shape, value.dtype, target), value)
            return
        import torch

        torch.frombuffer(target, dtype=value.dtype).view(value.shape).copy_(value)

    def buffer(self) -> Buffer:
        """Return the elements in memory of their own.

        Raises
        ------
        ModelError
            If there is no memory for them.
        """
        try:
            made = allocated(self.nbytes)
        except MemoryError as error:
            raise ModelError(
                f"no memory for a contiguous copy of {self.nbytes:,} bytes", path=self._path
            ) from error
        self.write_into(memoryview(made))
        return made
