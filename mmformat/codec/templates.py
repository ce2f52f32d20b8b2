"""Templates: the bytes of a message that are known from earlier inputs of the same structure.

The counterpart of the plans: a template is made of inputs that were encoded in full; later inputs
with the same structure (kinds, dtypes, shapes, text) fill in only the bytes that vary.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable, Sequence
from ctypes import string_at
from itertools import accumulate, compress
from typing import Any, Final, NamedTuple

import numpy as np

from mmformat._arrow import view_of_address
from mmformat.codec.bounded_cache import BoundedCache, SeenBefore
from mmformat.codec.columns import CHUNK_NBYTES, Row, write_rows
from mmformat.codec.plans import PLANS, PLANS_NBYTES, NoPlanError, Segments
from mmformat.codec.record_batch import encapsulate, layout_of
from mmformat.codec.schema import ALIGNMENT, END_OF_STREAM, SCHEMA_MESSAGE
from mmformat.errors import MMFormatError
from mmformat.model.dictionary import DictionaryTensor
from mmformat.model.item import (
    ContentIdentity,
    InputFormat,
    Modality,
    MultimodalDataItem,
    MultimodalInputs,
)
from mmformat.model.message import EncodedMessage
from mmformat.model.tensors import StridedBytes, tensor_part

__all__ = ["Outline", "encode_by_template", "forget_templates", "learn_template", "outline_of"]


class _Template(NamedTuple):
    """The bytes of a message of one structure that do not vary."""

    start: bytes
    segments: Segments
    values: list[Any]
    sizes: list[int]
    gaps: list[bytes]
    nbytes: int


class Outline:
    """The structure of inputs in ``key``, and the values that vary in lists.

    Raises
    ------
    NoPlanError
        If a value is of a rare kind.
    """

    __slots__ = (
        "buffers",
        "ends",
        "hashes",
        "identities",
        "key",
        "pad_values",
        "starts",
        "torch_bool",
    )

    def __init__(self, inputs: MultimodalInputs) -> None:
        self.key: list[Any] = [len(inputs.items)]
        self.buffers: list[Any] = []
        self.torch_bool = getattr(sys.modules.get("torch"), "bool", None)
        self.hashes: list[bytes] = []
        self.identities: list[bytes] = []
        self.pad_values: list[int] = []
        self.starts: list[int] = []
        self.ends: list[int] = []
        for item in inputs.items:
            self._item(item)
        if type(inputs.request_data) is not dict:
            raise NoPlanError
        if inputs.request_data:
            self._dict(inputs.request_data)
            self.hashes.append(b"")
            self.identities.append(b"")
            self.pad_values.append(0)
        self.key += (sum(map(len, self.hashes)), sum(map(len, self.identities)))

    def _item(self, item: MultimodalDataItem) -> None:
        key = self.key
        modality, form = item.modality, item.format
        number, pad_value, identity, offsets = (
            item.hash,
            item.pad_value,
            item.identity,
            item.offsets,
        )
        if type(modality) is not Modality or type(form) is not InputFormat:
            raise NoPlanError
        if not (number is None or (type(number) is int and -_WIDE < number < _WIDE)):
            raise NoPlanError
        if not (pad_value is None or type(pad_value) is int):
            raise NoPlanError
        if type(identity) is ContentIdentity:
            if not identity.is_of(item):
                raise NoPlanError
        elif not (identity is None or type(identity) is str):
            raise NoPlanError
        self.hashes.append(b"" if number is None else b"%d" % number)
        self.pad_values.append(pad_value or 0)
        self.identities.append(b"" if identity is None else identity.encode())
        key += (modality, form, number is None, pad_value is None, identity is None)
        if offsets is None:
            key.append(None)
        elif type(offsets) is list:
            key.append(len(offsets))
            for start, end in offsets:
                if type(start) is not int or type(end) is not int:
                    raise NoPlanError
                self.starts.append(start)
                self.ends.append(end)
        else:
            raise NoPlanError
        self._value(item.feature)
        self._value(item.precomputed_embeddings)
        if type(item.model_specific_data) is not dict:
            raise NoPlanError
        self._dict(item.model_specific_data)

    def _value(self, value: Any) -> None:
        kind = type(value)
        walk = _WALKS.get(kind)
        if walk is None:
            if kind is not getattr(sys.modules.get("torch"), "Tensor", None):
                raise NoPlanError
            walk = _WALKS[kind] = Outline._torch
        walk(self, value)

    def _constant(self, value: Any) -> None:
        self.key += (type(value), value)

    def _float(self, value: float) -> None:
        self.key += (float, repr(value))  # -0.0 equals 0.0

    def _dict(self, value: dict[Any, Any]) -> None:
        key = self.key
        if len(key) > _MOST_TOKENS:  # lists that hold one another may have no end
            raise NoPlanError
        key += (dict, len(value))
        for name, part in value.items():
            if type(name) is not str:
                raise NoPlanError
            key.append(name)
            self._value(part)

    def _list(self, value: Sequence[Any]) -> None:
        if len(self.key) > _MOST_TOKENS:
            raise NoPlanError
        self.key += (type(value), len(value))
        for part in value:
            self._value(part)

    def _torch(self, value: Any) -> None:
        nbytes = value.nbytes
        dtype = value.dtype
        self.key += (type(value), dtype, value.shape)
        if not nbytes:
            return
        if (
            value.is_contiguous()
            and value.is_cpu
            and dtype.itemsize * value.storage_offset() + nbytes <= value.untyped_storage().nbytes()
            and not (value.requires_grad or value.is_neg() or value.is_conj())
            and dtype is not self.torch_bool
        ):
            self._part(view_of_address(value.data_ptr(), nbytes, value), nbytes)
        else:
            self._part(tensor_part(value), nbytes)

    def _numpy(self, value: Any) -> None:
        nbytes = value.nbytes
        self.key += (np.ndarray, value.dtype, value.shape)
        if not nbytes:
            return
        if value.base is None and value.flags.c_contiguous and value.dtype != bool:
            self._part(view_of_address(value.ctypes.data, nbytes, value), nbytes)
        else:
            self._part(tensor_part(value), nbytes)

    def _part(self, part: Any, nbytes: int) -> None:
        if nbytes > CHUNK_NBYTES:
            raise NoPlanError
        self.buffers.append(part)

    def _dictionary(self, value: DictionaryTensor) -> None:
        self.key += (DictionaryTensor, value.axis, value.repeat, value.repeat_axis, value.shape)
        before = len(self.buffers)
        self._value(value.table)
        if len(self.buffers) == before:
            raise NoPlanError
        self._value(value.codes)


_WIDE: Final = 10**1000
_MOST_TOKENS: Final = 2**16
_WALKS: Final[dict[type, Callable[[Outline, Any], None]]] = {
    **dict.fromkeys((str, int, bool, bytes, type(None)), Outline._constant),
    float: Outline._float,
    dict: Outline._dict,
    list: Outline._list,
    tuple: Outline._list,
    np.ndarray: Outline._numpy,
    DictionaryTensor: Outline._dictionary,
}

_TEMPLATES: Final = BoundedCache[tuple[Any, ...], _Template](entries=PLANS, nbytes=PLANS_NBYTES)
_seen: Final = SeenBefore(entries=4 * PLANS)


def outline_of(inputs: MultimodalInputs) -> Outline | None:
    """Return the structure of inputs and the values that vary, or None if no plan can have them."""
    try:
        return Outline(inputs)
    except (NoPlanError, RuntimeError, ValueError, TypeError, AttributeError, MMFormatError):
        return None  # the full path raises any error; RecursionError is a RuntimeError


def encode_by_template(outline: Outline) -> EncodedMessage | None:
    """Encode inputs whose structure is known; None leaves them to the full path.

    Notes
    -----
    **Copies**: 4 bytes of each tensor, and tensors of 12 bytes or fewer.
    """
    try:
        template = _TEMPLATES.get(tuple(outline.key))
    except TypeError:
        return None
    if template is None:
        return None
    values = template.values.copy()
    places = template.segments.places
    values[places["hash"]] = [b"".join(outline.hashes)]
    values[places["identity"]] = [b"".join(outline.identities)]
    if len(outline.hashes) > 1:
        values[places["hash.ends"]] = accumulate(map(len, outline.hashes), initial=0)
        values[places["identity.ends"]] = accumulate(map(len, outline.identities), initial=0)
    values[places["pad_value"]] = outline.pad_values
    values[places["start"]] = outline.starts
    values[places["end"]] = outline.ends
    buffers = outline.buffers
    values[places["chunk"]] = [
        buffer.head() if type(buffer) is StridedBytes else string_at(buffer.address, size)
        for buffer, size in zip(buffers, template.sizes, strict=True)
    ]
    try:
        head = template.segments.both.pack(*values)
    except struct.error:
        return None  # a number of more than 64 bits
    frames: list[Any] = [template.start + head]
    is_data = template.segments.is_data
    for buffer, gap in zip(compress(buffers, is_data), template.gaps, strict=True):
        frames += (buffer, gap) if gap else (buffer,)
    if not template.gaps:
        frames[0] += END_OF_STREAM
    return EncodedMessage.of_frames(frames, template.nbytes)


def learn_template(outline: Outline, rows: Sequence[Row]) -> None:
    """Make a template of inputs that were encoded, if others of their structure were before.

    Parameters
    ----------
    outline : Outline
        Of the inputs.
    rows : sequence of Row
        The rows of their message, which has one plain batch.
    """
    try:
        key = tuple(outline.key)
        if not rows or not _seen(key):
            return
    except TypeError:
        return
    structure, columns, variadic = write_rows(rows)
    lengths = [len(buffer) for buffer in variadic]
    start = SCHEMA_MESSAGE + encapsulate(structure, (*layout_of(structure).lengths, *lengths))
    segments = Segments(structure, columns)
    gaps = [bytes(-length % ALIGNMENT) for length in lengths]
    if gaps:
        gaps[-1] += END_OF_STREAM
    nbytes = len(start) + len(columns) + sum(lengths) + sum(map(len, gaps))
    sizes = [
        4 if is_data else len(buffer)
        for is_data, buffer in zip(segments.is_data, outline.buffers, strict=True)
    ]
    template = _Template(
        start,
        segments,
        list(segments.both.unpack(columns)),
        sizes,
        gaps,
        nbytes if gaps else nbytes + len(END_OF_STREAM),
    )
    _TEMPLATES.put(key, template, len(start) + len(columns))


def forget_templates() -> None:
    """Drop every template, as before the first message."""
    _TEMPLATES.clear()
    _seen.clear()
