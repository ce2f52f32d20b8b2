"""numpy arrays, scalars and dtypes as a pickle describes them; none of numpy's hooks is called."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from mmformat.errors import DecodeError
from mmformat.legacy.limits import PickleLimits
from mmformat.legacy.nodes import Arguments, Call, Name, Scalar, Tensor
from mmformat.model.tensors import ITEMSIZE

__all__ = ["ITEMSIZE", "KINDS", "ArrayNode", "DTypeNode", "checked_shape"]

_CODES: Final = {
    "b1": "bool", "i1": "int8", "i2": "int16", "i4": "int32", "i8": "int64", "u1": "uint8",
    "u2": "uint16", "u4": "uint32", "u8": "uint64", "f2": "float16", "f4": "float32",
    "f8": "float64", "c8": "complex64", "c16": "complex128",
}  # fmt: skip


@dataclass(slots=True, eq=False)
class DTypeNode:
    """Stand for a numpy dtype: its wire name and byte order."""

    code: str
    dtype: str | None
    order: str = "="

    def build(self, state: Any, path: str) -> None:
        """Take the byte order; fields and sub-arrays make the dtype one of no use here."""
        if type(state) is not tuple or len(state) < 5 or type(state[1]) is not str:
            raise DecodeError("expected the state of a numpy dtype", path=path)
        if state[1] not in ("<", ">", "=", "|"):
            raise DecodeError(f"expected a byte order, got {state[1][:9]!r}", path=path)
        self.order = state[1]
        if any(part is not None for part in state[2:5]):
            self.dtype = None

    def known(self, path: str) -> str:
        """Return the wire name or say that there is none."""
        if self.dtype is None:
            raise DecodeError(
                f"expected a dtype of the wire, got numpy {self.code[:20]!r}",
                path=path,
                hint="objects, texts, dates and structured dtypes are not converted",
                code="dtype",
            )
        return self.dtype


@dataclass(slots=True, eq=False)
class ArrayNode:
    """Stand for a numpy array until BUILD brings what it is."""

    limits: PickleLimits
    tensor: Tensor | None = None

    def build(self, state: Any, path: str) -> None:
        """Take shape, dtype, order and bytes."""
        match state:
            case (int(), tuple() as shape, DTypeNode() as dtype, fortran, data):
                pass
            case _:
                raise DecodeError("expected the state of a numpy array", path=path)
        if self.tensor is not None:
            raise DecodeError("expected one BUILD of an array, got a second", path=path)
        dtype.known(path)
        if isinstance(data, str):
            data = data.encode("latin-1", "replace")
        if not isinstance(data, bytes | memoryview):
            raise DecodeError(
                f"expected the bytes of an array, got {type(data).__name__}", path=path
            )
        order = "F" if fortran else "C"
        self.tensor = _array(
            memoryview(data), dtype, shape, order=order, limits=self.limits, path=path
        )


def checked_shape(shape: Any, limits: PickleLimits, path: str) -> tuple[int, ...]:
    """Return ``shape`` when it is a tuple of extents within the limits."""
    if not isinstance(shape, tuple | list):
        raise DecodeError(f"expected a shape, got {type(shape).__name__}", path=path)
    if not all(type(extent) is int and 0 <= extent < 2**62 for extent in shape):
        raise DecodeError("expected extents of 0 or more", path=path, code="tensor-shape")
    limits.check("dimensions", len(shape), path)
    return tuple(shape)


def _array(
    data: memoryview,
    dtype: DTypeNode,
    shape: Any,
    *,
    order: str,
    limits: PickleLimits,
    path: str,
) -> Tensor:
    name = dtype.known(path)
    extents = checked_shape(shape, limits, path)
    size = ITEMSIZE[name]
    nbytes = math.prod(extents) * size
    data = data.cast("B") if data.format != "B" else data
    if nbytes != data.nbytes:
        raise DecodeError(
            f"expected {nbytes:,} bytes for shape {extents} of {name}, got {data.nbytes:,}",
            path=path,
            code="tensor-bounds",
        )
    strides = None
    if order == "F" and len(extents) > 1 and nbytes:
        strides = tuple(size * math.prod(extents[:axis]) for axis in range(len(extents)))
    swapped = dtype.order == ">" and size > 1
    return Tensor("numpy", name, extents, nbytes, data, stride_nbytes=strides, swapped=swapped)


def _dtype(machine: Any, call: Arguments) -> Any:
    match call.values:
        case (str() as code, *_):
            return DTypeNode(code, _CODES.get(code))
        case (Name(kind="ml-dtype") as name, *_):
            return DTypeNode(name.name, name.name)
    raise call.wrong()


def _reconstruct(machine: Any, call: Arguments) -> Any:
    match call.values:
        case (Name(kind="numpy-ndarray"), tuple(), bytes() | memoryview() | str()):
            return ArrayNode(machine.limits)
    raise call.wrong()


def _frombuffer(machine: Any, call: Arguments) -> Any:
    match call.values:
        case (bytes() | memoryview() as data, DTypeNode() as dtype, shape, ("C" | "F") as o, *rest):
            if rest not in ([], [None]):
                raise call.wrong()
            return _array(
                memoryview(data), dtype, shape, order=o, limits=machine.limits, path=call.path
            )
    raise call.wrong()


def _scalar(machine: Any, call: Arguments) -> Any:
    match call.values:
        case (DTypeNode() as dtype, bytes() | memoryview() | str() as data):
            name = dtype.known(call.path)
            raw = data.encode("latin-1", "replace") if isinstance(data, str) else bytes(data)
            if len(raw) != ITEMSIZE[name] or dtype.code not in _CODES:
                raise call.wrong()
            plain = np.dtype(name)
            big = dtype.order == ">"
            found = np.frombuffer(raw, plain.newbyteorder(">" if big else "<"))[0]
            return Scalar(found.item(), name)
    raise call.wrong()


KINDS: Final[Mapping[str, tuple[Call | None, Call | None]]] = {
    "numpy-dtype": (_dtype, None),
    "numpy-ndarray": (None, None),
    "numpy-reconstruct": (_reconstruct, None),
    "numpy-frombuffer": (_frombuffer, None),
    "numpy-scalar": (_scalar, None),
    "ml-dtype": (None, None),
}
