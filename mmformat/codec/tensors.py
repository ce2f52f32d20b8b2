"""Tensors as the data of a row, plain or dictionary-encoded, and back."""

from __future__ import annotations

import ctypes
import json
import math
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mmformat._arrow import buffer_of, copied, view_of_address
from mmformat.codec.attributes import parsed
from mmformat.codec.bounded_cache import bounded_cache
from mmformat.codec.columns import (
    CHUNK_NBYTES,
    DICTIONARY,
    INLINE_NBYTES,
    PLAIN,
    Bytes,
    TensorEntry,
)
from mmformat.errors import DecodeError, IntegrityError, ModelError
from mmformat.model.dictionary import DictionaryTensor, check_dictionary, expanded_shape
from mmformat.model.limits import Limits
from mmformat.model.tensors import (
    ITEMSIZE,
    StridedBytes,
    TensorSpec,
    numpy_dtype,
    tensor_buffer,
    tensor_part,
    tensor_spec,
    torch_dtype,
)

if TYPE_CHECKING:
    import torch

__all__ = [
    "DictionaryLayout",
    "check_entry",
    "cut",
    "dictionary_layout",
    "entry_of",
    "numpy_view",
    "tensor_of",
    "torch_view",
    "writable_memory",
]

_PARAMETERS = ("axis", "codes", "entries", "repeat", "repeat_axis", "table_channels")


def entry_of(name: str, value: Any, *, path: str, is_lazy: bool = False) -> TensorEntry:
    """Return the row entry of a tensor value.

    Parameters
    ----------
    name : str
        Of the entry.
    value : tensor
        torch, numpy or DictionaryTensor.
    path : str
        For errors.
    is_lazy : bool, default False
        Copy a view with strides only where it is written.

    Raises
    ------
    ModelError
        If the tensor cannot travel.

    Notes
    -----
    **Copies**: none for contiguous tensors; the bytes of the view otherwise.
    """
    if isinstance(value, DictionaryTensor):
        table, codes = tensor_spec(value.table), tensor_spec(value.codes)
        parameters = {
            "axis": value.axis,
            "codes": list(codes.shape),
            "entries": table.shape[1],
            "repeat": value.repeat,
            "repeat_axis": value.repeat_axis,
            "table_channels": table.shape[0],
        }
        data: list[Any] = [tensor_buffer(value.table, path=path)]
        if len(data[0]) > CHUNK_NBYTES:
            raise ModelError(
                f"expected a table of at most {CHUNK_NBYTES:,} bytes, got {len(data[0]):,}",
                path=path,
                code="dictionary-table",
            )
        data += _chunks(value.codes, path, is_lazy)
        text = json.dumps(parameters, separators=(",", ":"))
        return TensorEntry(name, table.dtype, tuple(value.shape), DICTIONARY, text, data)
    spec = tensor_spec(value, path=path)
    return TensorEntry(name, spec.dtype, spec.shape, PLAIN, None, _chunks(value, path, is_lazy))


def _chunks(value: Any, path: str, is_lazy: bool) -> list[Any]:
    part = tensor_part(value, path=path)
    if isinstance(part, StridedBytes):
        if is_lazy and len(part) <= CHUNK_NBYTES:
            return [part]
        part = part.buffer()
    return cut(part, CHUNK_NBYTES) if part.size else []


def cut(buffer: Any, nbytes: int) -> list[Bytes]:
    """Return a buffer in pieces of so many bytes; no byte is copied."""
    if buffer.size <= nbytes:
        return [buffer]
    # The last chunk takes a rest that would be an inline view: chunks stay adjacent.
    starts = range(0, buffer.size - INLINE_NBYTES, nbytes)
    ends = [*starts[1:], buffer.size]
    return [
        view_of_address(buffer.address + start, end - start, buffer)
        for start, end in zip(starts, ends, strict=True)
    ]


def check_entry(entry: TensorEntry, limits: Limits, *, path: str) -> None:
    """Check that dtype, shape, encoding and length agree; no tensor byte is read.

    Raises
    ------
    DecodeError
        For a dtype or an encoding that is not of this version.
    IntegrityError
        If the bytes are not those that dtype and shape need.
    LimitError
        If the tensor would be larger than the limits allow.
    """
    nbytes = checked_nbytes(entry.dtype, entry.shape, limits, path=path)
    if entry.encoding == PLAIN:
        if entry.parameters is not None:
            raise DecodeError(
                "expected no parameters for plain", path=path, code="plain-parameters"
            )
        expected = nbytes
        stored = sum(map(len, entry.data))
    elif entry.encoding == DICTIONARY:
        dictionary = dictionary_layout(entry, path)
        # The codes' axes too: a zero extent among them would excuse any other in the check below.
        for part, shape in (("uint8", dictionary.codes.shape), (entry.dtype, dictionary.expanded)):
            checked_nbytes(part, shape, limits, path=path)
        if math.prod(dictionary.expanded) * ITEMSIZE[entry.dtype] != nbytes:
            raise IntegrityError(
                f"expected codes for the shape {entry.shape}, got {dictionary.codes.shape} "
                f"repeated {dictionary.repeat} times",
                path=path,
                code="dictionary-shape",
            )
        if not entry.data or len(entry.data[0]) != dictionary.table.nbytes:
            raise IntegrityError(
                f"expected a table of {dictionary.table.nbytes} bytes first in the data",
                path=path,
                code="dictionary-table",
            )
        expected = dictionary.codes.nbytes
        stored = sum(map(len, entry.data[1:]))
    else:
        raise DecodeError(
            f"expected encoding plain or dictionary, got {entry.encoding!r}",
            path=path,
            code="encoding",
        )
    if stored != expected:
        raise IntegrityError(
            f"expected {expected:,} bytes for {entry.dtype} {list(entry.shape)}, got {stored:,}",
            path=path,
            code="shape-bytes",
        )


def checked_nbytes(dtype: str, shape: Sequence[int], limits: Limits, *, path: str) -> int:
    """Return the bytes of a tensor; extents are checked first, so that nothing overflows."""
    itemsize = ITEMSIZE.get(dtype)
    limits.check("dimensions", len(shape), path=path)
    if itemsize is None:
        raise DecodeError(f"expected a dtype of the wire, got {dtype!r}", path=path, code="dtype")
    if shape and min(shape) < 0:
        raise DecodeError(
            f"expected extents of 0 or more, got {list(shape)}", path=path, code="shape"
        )
    nbytes = itemsize * math.prod(shape)
    # A zero extent does not excuse the others: their strides would still overflow elsewhere.
    most = nbytes or itemsize * math.prod([max(extent, 1) for extent in shape])
    limits.check("tensor_nbytes", most, path=path)
    return nbytes


def tensor_of(
    entry: TensorEntry, *, torch: bool, expand: bool, path: str, writable: bool = False
) -> Any:
    """Return the tensor of a checked entry.

    Parameters
    ----------
    entry : TensorEntry
        Checked.
    torch : bool
        Make a torch tensor, not a numpy array.
    expand : bool
        Expand a dictionary tensor.
    path : str
        Of the tensor, for errors.
    writable : bool
        Copy immutable bytes for a torch tensor, which cannot be read-only.

    Raises
    ------
    IntegrityError
        If a code is not in the table.

    Notes
    -----
    **Copies**: none for one chunk, or adjacent chunks; other chunks are joined.
    ``expand`` writes every element of a dictionary tensor.
    """
    view = partial(torch_view, writable=writable) if torch else numpy_view
    if entry.encoding == PLAIN:
        return view(_joined(entry.data), entry.dtype, entry.shape)
    dictionary = dictionary_layout(entry, path)
    made = DictionaryTensor(
        view(_joined(entry.data[1:]), "uint8", dictionary.codes.shape),
        view(entry.data[0], entry.dtype, dictionary.table.shape),
        axis=dictionary.axis,
        repeat_axis=dictionary.repeat_axis,
        repeat=dictionary.repeat,
        shape=entry.shape,
    )
    if not expand:
        return made
    try:
        return made.expand()
    except ModelError as error:
        raise IntegrityError(error.reason, path=path, code=error.code) from error


def _joined(chunks: Sequence[Bytes]) -> Bytes:
    if len(chunks) == 1:
        return chunks[0]
    if not chunks:
        return b""
    buffers = [buffer_of(chunk) for chunk in chunks]
    nbytes = sum(buffer.size for buffer in buffers)
    if all(a.address + a.size == b.address for a, b in pairwise(buffers)):
        return view_of_address(buffers[0].address, nbytes, buffers)
    return memoryview(bytearray().join(chunks))


class DictionaryLayout:
    """Checked parameters of a dictionary entry; immutable."""

    __slots__ = ("axis", "codes", "expanded", "repeat", "repeat_axis", "table")

    def __init__(self, values: dict[str, Any], dtype: str) -> None:
        codes = values["codes"]
        if type(codes) is not list or any(type(e) is not int or e < 0 for e in codes):
            raise ValueError("expected extents of the codes")
        for name in _PARAMETERS:
            if name != "codes" and type(values[name]) is not int:
                raise ValueError(f"expected an int for {name}")
        self.codes = TensorSpec("uint8", tuple(codes))
        self.table = TensorSpec(dtype, (values["table_channels"], values["entries"]))
        self.axis: int = values["axis"]
        self.repeat: int = values["repeat"]
        self.repeat_axis: int = values["repeat_axis"]
        check_dictionary(
            self.codes,
            self.table,
            axis=self.axis,
            repeat_axis=self.repeat_axis,
            repeat=self.repeat,
        )
        self.expanded = expanded_shape(
            self.codes.shape, repeat_axis=self.repeat_axis, repeat=self.repeat
        )


def dictionary_layout(entry: TensorEntry, path: str) -> DictionaryLayout:
    """Return the parsed parameters of a dictionary entry; cached by their text.

    Raises
    ------
    DecodeError
        If they are not those of a dictionary tensor.
    """
    try:
        return _layout_of((entry.parameters or "null", entry.dtype))
    except (ValueError, RecursionError) as error:
        raise DecodeError(
            f"expected the parameters of a dictionary, got: {error}", path=path, code="parameters"
        ) from error


def _text_nbytes(key: tuple[str, str]) -> int:
    return len(key[0])


@bounded_cache(_text_nbytes, limit=1024)
def _layout_of(key: tuple[str, str]) -> DictionaryLayout:
    values = parsed(key[0])
    if type(values) is not dict or sorted(values) != list(_PARAMETERS):
        raise ValueError(f"expected the keys {', '.join(_PARAMETERS)}")
    return DictionaryLayout(values, key[1])


def numpy_view(data: Any, dtype: str, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """Return an array over ``data``; read-only where the bytes are.

    Notes
    -----
    **Copies**: none. **Lifetime**: the array keeps the bytes alive.
    """
    if math.prod(shape) == 0:
        return np.empty(shape, numpy_dtype(dtype))
    return np.frombuffer(data, numpy_dtype(dtype)).reshape(shape)


def torch_view(
    data: Any, dtype: str, shape: tuple[int, ...], *, writable: bool = False
) -> torch.Tensor:
    """Return a tensor over ``data``, whether it is writable or not.

    Parameters
    ----------
    data : buffer
        The elements.
    dtype, shape
        Of the tensor.
    writable : bool
        Copy the bytes of a ``bytes`` object first: torch has no read-only tensors.

    Notes
    -----
    **Copies**: none, except as ``writable`` says. **Lifetime**: the tensor keeps the bytes alive.
    """
    element = torch_dtype(dtype)  # names the missing extra
    import torch

    if math.prod(shape) == 0:
        return torch.empty(shape, dtype=element)
    return torch.frombuffer(writable_memory(data, copy=writable), dtype=element).view(shape)


def writable_memory(data: Any, *, copy: bool) -> Any:
    """Return a buffer that torch takes for writable; with ``copy`` a ``bytes`` object is copied.

    Notes
    -----
    torch.frombuffer warns at every read-only buffer, and its check cannot be turned off.
    """
    view = memoryview(data)
    if not view.readonly:
        return data
    if copy and type(view.obj) is bytes:
        return copied(view)
    buffer = buffer_of(data)
    array = (ctypes.c_char * buffer.size).from_address(buffer.address)
    array._owner = buffer  # type: ignore[attr-defined]  # keeps the bytes alive
    return array
