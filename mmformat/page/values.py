"""Read a message's tensors where they lie, and summarize the values of some of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from mmformat.codec.chained_buffer import open_chained
from mmformat.codec.columns import TensorEntry
from mmformat.codec.decode import RowReader, gather
from mmformat.codec.stream import read_batches
from mmformat.codec.tensors import tensor_of
from mmformat.model.dictionary import DictionaryTensor
from mmformat.model.item import MultimodalInputs
from mmformat.model.limits import Limits

__all__ = [
    "StoredTensor",
    "Summary",
    "as_floats",
    "read_values",
    "summarize",
    "tensors_in",
]

_WORDS: Final = {"bool": "uint8", "bfloat16": "uint16"}
"""What numpy reads where it has no such dtype, or trusts its bytes too much."""

_FLOAT8: Final = {
    # exponent bits, bias, whether it has infinities, whether 0x80 is the one NaN
    "float8_e4m3fn": (4, 7, False, False),
    "float8_e5m2": (5, 15, True, False),
    "float8_e4m3fnuz": (4, 8, False, True),
    "float8_e5m2fnuz": (5, 16, False, True),
}


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class StoredTensor:
    """Hold a tensor as it is stored.

    Parameters
    ----------
    name, dtype : str
        As in the message.
    shape : tuple of int
        Extents after decoding.
    words : array
        The stored elements: of a dictionary tensor its codes.
    table : array (channels, entries), optional
        The words that the codes stand for.
    axis, repeat_axis, repeat : int
        As in :class:`mmformat.DictionaryTensor`.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    words: npt.NDArray[Any]
    table: npt.NDArray[Any] | None = None
    axis: int = 0
    repeat_axis: int = 0
    repeat: int = 1

    def floats(self, words: npt.NDArray[Any], channels: Any = 0) -> npt.NDArray[Any]:
        """Return the values of some of the words; of codes, by the tables of their channels.

        Notes
        -----
        A code beyond its table is shown as the last entry: whoever looks at a broken message
        wants to see it.
        """
        if self.table is None:
            return as_floats(words, self.dtype)
        row = channels if self.table.shape[0] > 1 else 0
        at = np.minimum(words, self.table.shape[1] - 1)
        return as_floats(self.table[row, at], self.dtype)


def read_values(source: Any, *, limits: Limits | None = None) -> MultimodalInputs:
    """Return a message's inputs with a :class:`StoredTensor` in the place of each tensor.

    Raises
    ------
    DecodeError
        When the bytes are no message of this format.
    LimitError
        When the message asks for more than the limits allow.

    Notes
    -----
    **Copies**: none of an uncompressed tensor; compressed batches are decompressed.
    """
    bounds = limits or Limits()
    items, request = gather(read_batches(open_chained(source), bounds), bounds)
    # A dictionary is looked up element by element, and never expanded.
    reader = RowReader(bounds, _stored, expands=False)
    inputs = MultimodalInputs(items=[reader.item(*pair) for pair in items])
    if request is not None:
        fields = reader.values(request, "$", ("request_data",))
        inputs.request_data = fields.get("request_data", {})
    return inputs


def _stored(entry: TensorEntry, torch: bool, path: str) -> StoredTensor:
    words = "uint8" if entry.dtype in _FLOAT8 else _WORDS.get(entry.dtype, entry.dtype)
    value = tensor_of(entry._replace(dtype=words), torch=False, expand=False, path=path)
    told: dict[str, Any] = {"name": entry.name, "dtype": entry.dtype, "shape": tuple(entry.shape)}
    if not isinstance(value, DictionaryTensor):
        return StoredTensor(words=value, **told)
    return StoredTensor(
        words=np.asarray(value.codes),
        table=np.asarray(value.table),
        axis=value.axis,
        repeat_axis=value.repeat_axis,
        repeat=value.repeat,
        **told,
    )


def tensors_in(value: Any) -> list[StoredTensor]:
    """Return the tensors within a value, in their order."""
    if isinstance(value, StoredTensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return [tensor for part in value for tensor in tensors_in(part)]
    return []


def as_floats(words: npt.NDArray[Any], dtype: str) -> npt.NDArray[Any]:
    """Return the values of words as float64; of complex numbers their magnitude.

    Examples
    --------
    >>> as_floats(np.array([0x3F80, 0xC000], np.uint16), "bfloat16")
    array([ 1., -2.])
    >>> as_floats(np.array([0x38, 0x7F], np.uint8), "float8_e4m3fn")
    array([ 1., nan])
    """
    with np.errstate(invalid="ignore", over="ignore"):  # signalling NaNs and huge magnitudes
        if dtype == "bfloat16":
            return (words.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
        if dtype in _FLOAT8:
            looked_up: npt.NDArray[Any] = _float8_values(dtype)[words]
            return looked_up
        if dtype.startswith("complex"):
            return np.abs(words.astype(np.complex128))
        return words.astype(np.float64)


def _float8_values(dtype: str) -> npt.NDArray[np.float64]:
    exponent_bits, bias, has_infinity, one_nan = _FLOAT8[dtype]
    mantissa_bits = 7 - exponent_bits
    bits = np.arange(256)
    sign = np.where(bits & 0x80, -1.0, 1.0)
    exponent = (bits & 0x7F) >> mantissa_bits
    fraction = (bits & ((1 << mantissa_bits) - 1)) / (1 << mantissa_bits)
    normal = (1 + fraction) * np.exp2(exponent - float(bias))
    subnormal = fraction * np.exp2(1.0 - bias)
    values: npt.NDArray[np.float64] = sign * np.where(exponent == 0, subnormal, normal)
    if one_nan:
        values[0x80] = np.nan
    elif has_infinity:
        largest = exponent == (1 << exponent_bits) - 1
        values[largest] = np.where(fraction[largest] == 0, sign[largest] * np.inf, np.nan)
    else:
        values[[0x7F, 0xFF]] = np.nan
    return values


_RUN: Final = 1024
"""Neighbours that are read together, so that a page of a mapped file is read for many values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Say what sampled values are like.

    Parameters
    ----------
    values : float64 array
        The finite ones.
    channels : int array
        Which channel each of them is of; all 0 where there are none.
    looked_at, total : int
        How many values were looked at, and how many the stored tensor has.
    nans, infinities, zeros : int
        Of those that were looked at.
    """

    values: npt.NDArray[np.float64]
    channels: npt.NDArray[np.intp]
    looked_at: int
    total: int
    nans: int
    infinities: int
    zeros: int

    @property
    def is_whole(self) -> bool:
        """Whether every value was looked at."""
        return self.looked_at == self.total


def summarize(
    tensor: StoredTensor, *, most: int, channels: int = 1, channel_stride: int = 1
) -> Summary:
    """Look at ``most`` values, in runs that are spread evenly, and count what is special.

    Parameters
    ----------
    tensor : StoredTensor
        Whose values are looked at.
    most : int
        How many.
    channels, channel_stride : int
        How many channels the tensor has, and how many elements one channel is from the next.

    Notes
    -----
    **Copies**: the values that are looked at. **Cost**: in the measure of ``most``, whatever the
    tensor's size.
    """
    flat = tensor.words.reshape(-1)
    run = min(_RUN, most)
    indices: Any = np.arange(min(flat.size, max(1, most // run) * run))
    if flat.size > indices.size:
        starts = np.linspace(0, flat.size - run, indices.size // run).astype(np.int64)
        indices = (starts[:, None] + np.arange(run)).reshape(-1)
    rows: Any = 0
    if tensor.table is not None and tensor.table.shape[0] > 1:
        inner = math.prod(tensor.words.shape[tensor.axis + 1 :])
        rows = indices // max(1, inner) % tensor.table.shape[0]
    values = tensor.floats(flat[indices], rows)
    finite = np.isfinite(values)
    return Summary(
        values=values[finite],
        channels=(indices // max(1, channel_stride) % channels)[finite],
        looked_at=values.size,
        total=flat.size,
        nans=int(np.isnan(values).sum()),
        infinities=int(np.isinf(values).sum()),
        zeros=int((values == 0).sum()),
    )
