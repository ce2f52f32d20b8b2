"""Plans: the parts of a message that are known from an earlier one of the same structure.

Requests of one model differ in a few column bytes: hash, pad value, identity, token ranges and the
first bytes of each tensor. A plan is made from a message that passed every check, and holds all
that follows from its other bytes. A later message uses the plan if its metadata and its other
column bytes are equal; only the bytes that vary are read and checked. A message that differs in any
other way takes the full path, which also raises the errors.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from functools import cache
from itertools import accumulate, compress, pairwise
from operator import itemgetter
from typing import Any, Final, NamedTuple, NoReturn, TypeAlias

import numpy as np

from mmformat._arrow import copied
from mmformat.codec.attributes import exact_int
from mmformat.codec.bounded_cache import BoundedCache, SeenBefore
from mmformat.codec.columns import (
    DICTIONARY,
    INLINE_NBYTES,
    PLAIN,
    VIEW,
    Row,
    TensorEntry,
)
from mmformat.codec.record_batch import (
    Structure,
    layout_of,
    places,
    plain_structure,
    read_batch_metadata,
)
from mmformat.codec.schema import (
    ALIGNMENT,
    ARRAYS,
    BUFFERS,
    CONTINUATION,
    END_OF_STREAM,
    SCHEMA_MESSAGE,
)
from mmformat.codec.tensors import tensor_of, writable_memory
from mmformat.errors import MMFormatError
from mmformat.model.item import (
    InputFormat,
    Modality,
    MultimodalInputs,
    made_item,
)
from mmformat.model.limits import Limits
from mmformat.model.tensors import (
    ITEMSIZE,
    ML_DTYPES,
    TensorSpec,
    numpy_dtype,
    torch_dtype,
)

__all__ = [
    "PLANS",
    "PLANS_NBYTES",
    "Make",
    "NoPlanError",
    "Segments",
    "by_plan",
    "forget_plans",
    "learn",
]

PLANS: Final = 256
PLANS_NBYTES: Final = 4 * 2**20
"""Bounds of each cache: structures, and the bytes of their metadata and columns."""

VARIANTS: Final = 16
"""Plans of one record batch's metadata: other attributes or shapes of the same lengths."""

_VARYING: Final = {array.name: array for array in ARRAYS if array.varies}
_BATCH_AT: Final = len(SCHEMA_MESSAGE) + 8
_START: Final = SCHEMA_MESSAGE + CONTINUATION


class Segments:
    """Divide the columns of one structure into the bytes that vary and those that do not.

    Parameters
    ----------
    structure : Structure
        Of the batch.
    columns : bytes
        Its columns; only the lengths in the views are read.

    Attributes
    ----------
    fixed, varying, both : struct.Struct
        The bytes that do not vary, the values that do, and all of them in order.
    slices : dict
        For each buffer that varies, by its array and number, its values among the varying ones.
    places : dict
        For each such buffer, its values among those of ``both``.
    is_data : list of bool
        For each view whether its bytes lie in a data buffer, and not in the view itself.
    """

    __slots__ = ("both", "fixed", "is_data", "places", "slices", "varying")

    def __init__(self, structure: Structure, columns: bytes) -> None:
        layout = layout_of(structure)
        offsets = places(layout.lengths)[0][::2]
        fields: list[tuple[int, str, int, str]] = []  # offset, form, values, key
        self.slices: dict[str, slice] = {"chunk": slice(0, 0)}
        self.is_data: list[bool] = []
        for name, array in _VARYING.items():
            length = structure.lengths[array.level]
            at = offsets[array.buffer + 1]
            if array.kind == "view":
                views = VIEW.iter_unpack(columns[_views_at(structure)])
                for number, (nbytes, *_) in enumerate(views):
                    self.is_data.append(nbytes > INLINE_NBYTES)
                    size = 4 if self.is_data[-1] else nbytes
                    fields.append((at + 16 * number + 4, f"{size}s", 1, name))
            elif array.kind == "text":
                if length > 1:  # the end of one text is the length of all
                    fields.append((at, f"{length + 1}i", length + 1, f"{name}.ends"))
                fields.append(
                    (offsets[array.buffer + 2], f"{structure.texts[array.text]}s", 1, name)
                )
            else:
                fields.append((at, f"{length}q", length, name))
        fixed, varying, both = ["<"], ["<"], ["<"]
        self.places: dict[str, slice] = {"chunk": slice(0, 0)}
        end = place = count = 0
        for at, form, values, name in fields:
            nbytes = struct.calcsize(f"<{form}")
            fixed += (f"{at - end}s", f"{nbytes}x")
            varying += (f"{at - end}x", form)
            both += (f"{at - end}s", form)
            first, step = count, 1
            place_at = place + 1
            if name == "chunk":  # each view is one field, after the fixed bytes before it
                step = 2
                if self.slices[name].stop:
                    first, place_at = self.slices[name].start, self.places[name].start
            self.slices[name] = slice(first, count + values)
            self.places[name] = slice(place_at, place + 1 + values, step)
            place += 1 + values
            count += values
            end = at + nbytes
        rest = layout.columns.size - end
        self.fixed = struct.Struct("".join((*fixed, f"{rest}s")))
        self.varying = struct.Struct("".join((*varying, f"{rest}x")))
        self.both = struct.Struct("".join((*both, f"{rest}s")))


def _views_at(structure: Structure) -> slice:
    """Return where the views lie in the columns; no record batch's metadata tells their lengths."""
    chunk = _VARYING["chunk"]
    start = places(layout_of(structure).lengths)[0][2 * (chunk.buffer + 1)]
    return slice(start, start + 16 * structure.lengths[chunk.level])


class NoPlanError(Exception):
    """A message that no plan can describe."""


class _Skeleton:
    """All that follows from the metadata of a message with one plain record batch."""

    __slots__ = (
        "buffers",
        "columns_at",
        "frame_of",
        "frames",
        "lengths",
        "nbytes",
        "numbers",
        "prefixes",
        "rows",
        "segments",
        "views",
    )

    def __init__(
        self, structure: Structure, columns: bytes, columns_at: int, body: Sequence[int]
    ) -> None:
        self.segments = Segments(structure, columns)
        self.columns_at = columns_at
        self.rows = structure.lengths[0]
        self.views = _views_at(structure)
        self.lengths = [length for length, *_ in VIEW.iter_unpack(columns[self.views])]
        self.buffers = [(columns_at + at, n) for at, n in zip(body[::2], body[1::2], strict=True)]
        # As encode() divides a message into frames.
        self.frames = [columns_at + len(columns)]
        self.frame_of: list[int] = []
        form, end = "<", 0
        for at, nbytes in self.buffers:
            form += f"{at - end}x4s"
            end = at + 4
            self.frame_of.append(len(self.frames))
            gap = -nbytes % ALIGNMENT
            self.frames += [nbytes, gap] if gap else [nbytes]
        self.prefixes = struct.Struct(form)
        self.nbytes = sum(self.frames) + len(END_OF_STREAM)
        if self.buffers and not -self.buffers[-1][1] % ALIGNMENT:
            self.frames.append(0)
        self.frames[-1] += len(END_OF_STREAM)
        used = accumulate(self.segments.is_data, initial=0)
        self.numbers = [
            number if is_data else -1
            for is_data, number in zip(self.segments.is_data, used, strict=False)
        ]

    def fits(self, view: memoryview) -> bool:
        """Return whether the views have the lengths of those that it was made of."""
        at = self.columns_at
        return len(view) >= at + self.segments.fixed.size and self.lengths == [
            length
            for length, *_ in VIEW.iter_unpack(view[at + self.views.start : at + self.views.stop])
        ]


_WORDS: Final[dict[int, np.dtype[Any]]] = {1: np.dtype("u1"), 2: np.dtype("i2")}
"""What torch.from_numpy takes for the dtypes that numpy itself does not have."""


class _Tensor:
    """The known parts of a tensor: all but its bytes."""

    __slots__ = ("chunks", "element", "entry", "is_simple", "is_torch", "path", "shape", "word")

    def __init__(self, entry: TensorEntry, chunks: range, is_torch: bool, path: str) -> None:
        self.entry = entry._replace(data=[])
        self.is_torch = is_torch
        self.path = path
        self.shape = tuple(entry.shape)
        self.chunks = chunks
        # A plain tensor in one piece is by far the most frequent.
        self.is_simple = entry.encoding == PLAIN and len(entry.data) == 1
        self.word: np.dtype[Any] | None = None
        self.element: Any = None

    def numpy(self, data: Any, offset: int) -> Any:
        """Return the array over a buffer; read-only where the buffer is."""
        return np.ndarray(self.shape, numpy_dtype(self.entry.dtype), data, offset)

    def torch(self, data: Any, offset: int) -> Any:
        """Return the tensor over a writable buffer."""
        if self.word is None:
            element, name = torch_dtype(self.entry.dtype), self.entry.dtype
            if name in ML_DTYPES:
                self.word, self.element = _WORDS[ITEMSIZE[name]], element
            else:
                self.word = numpy_dtype(name)
        made = from_numpy()(np.ndarray(self.shape, self.word, data, offset))
        return made if self.element is None else made.view(self.element)


@cache
def from_numpy() -> Callable[[Any], Any]:
    """Return ``torch.from_numpy``; torch is installed, and imported when it is first needed."""
    import torch

    return torch.from_numpy


Build: TypeAlias = Callable[[list[Any]], Any]
"""Make a value from the tensors of its message."""

Make: TypeAlias = Callable[[TensorEntry, bool, str], Any]
"""Make the tensor of a checked entry, given whether it was a torch tensor, and its path."""


class _Row(NamedTuple):
    """An item without the fields that vary."""

    modality: Modality
    format: InputFormat
    has_hash: bool
    has_pad_value: bool
    has_identity: bool
    ranges: slice | None
    feature: Build
    precomputed_embeddings: Build
    model_specific_data: Build


class _Plan(NamedTuple):
    """The known parts of a message of one structure, and the limits that it passed."""

    limits: Limits
    items: list[_Row]
    request: Build
    tensors: list[_Tensor]
    expanded_nbytes: int


_SKELETONS: Final = BoundedCache[bytes, _Skeleton](entries=PLANS, nbytes=PLANS_NBYTES)
_PLANS_MEMORY_NBYTES: Final = 32 * 2**20
_ATTRIBUTES_FACTOR: Final = 64
"""Bytes of Python objects that a plan may hold for one byte of attributes (docs/security.md)."""

_PLANS: Final = BoundedCache[tuple[_Skeleton, bytes], _Plan](
    entries=PLANS, nbytes=_PLANS_MEMORY_NBYTES
)
_seen: Final = SeenBefore(entries=4 * PLANS)


def by_plan(
    frames: Sequence[Any],
    limits: Limits,
    *,
    library: str | None = None,
    expand: bool = True,
    writable: bool = False,
    make: Make | None = None,
) -> MultimodalInputs | None:
    """Decode a message whose structure is known; None leaves it to the full path.

    Parameters
    ----------
    frames : sequence of buffers of bytes
        The message.
    limits, library, expand, writable
        As those of :func:`mmformat.codec.decode`, checked.
    make : callable, optional
        Make each tensor in place of this function, as on a device; its entry is checked, and its
        data are views of the frames.
    """
    if not frames:
        return None
    view = memoryview(frames[0])
    metadata = _metadata_of(view)
    skeleton = None if metadata is None else _SKELETONS.get(metadata)
    if skeleton is None:
        return None
    is_one = len(frames) == 1
    if is_one:
        if len(view) != skeleton.nbytes or bytes(view[-8:]) != END_OF_STREAM:
            return None
        first_bytes = skeleton.prefixes.unpack_from(view)
    else:
        if skeleton.frames != [len(frame) for frame in frames] or (
            bytes(memoryview(frames[-1])[-8:]) != END_OF_STREAM
        ):
            return None
        first_bytes = tuple([bytes(memoryview(frames[at])[:4]) for at in skeleton.frame_of])
    segments = skeleton.segments
    fixed = b"".join(segments.fixed.unpack_from(view, skeleton.columns_at))
    plan = _PLANS.get((skeleton, fixed))
    if plan is None or (plan.limits is not limits and plan.limits != limits):
        return None
    if expand and plan.expanded_nbytes > limits.decompressed_nbytes:
        return None
    values = segments.varying.unpack_from(view, skeleton.columns_at)
    views = values[segments.slices["chunk"]]
    if views != first_bytes and tuple(compress(views, segments.is_data)) != first_bytes:
        return None
    memory = _Memory(frames, skeleton, view if is_one else None, views, writable=writable)
    try:
        if make is None:
            tensors = [
                memory.make(
                    tensor, tensor.is_torch if library is None else library == "torch", expand
                )
                for tensor in plan.tensors
            ]
        else:
            tensors = [
                make(memory.entry(tensor), tensor.is_torch, tensor.path) for tensor in plan.tensors
            ]
        hashes = _texts(values, segments, "hash", skeleton.rows)
        identities = _texts(values, segments, "identity", skeleton.rows)
        pad_values = values[segments.slices["pad_value"]]
        starts, ends = values[segments.slices["start"]], values[segments.slices["end"]]
        items = [
            made_item(
                row.modality,
                row.feature(tensors),
                row.precomputed_embeddings(tensors),
                None
                if row.ranges is None
                else list(zip(starts[row.ranges], ends[row.ranges], strict=True)),
                row.format,
                row.model_specific_data(tensors),
                _int_of(text, row.has_hash),
                pad_value if row.has_pad_value else None,
                _text_of(identity, row.has_identity),
            )
            for row, text, pad_value, identity in zip(
                plan.items, hashes, pad_values, identities, strict=False
            )
        ]
        if len(plan.items) < skeleton.rows and (hashes[-1] or identities[-1]):
            return None  # bytes under a null
        request_data = plan.request(tensors)
    except (MMFormatError, ValueError):
        return None  # the full path raises the error
    return MultimodalInputs(items=items, request_data=request_data)


def _metadata_of(view: memoryview) -> bytes | None:
    """Return the first batch's metadata, if our schema comes before it."""
    start = bytes(view[:_BATCH_AT])
    if len(start) != _BATCH_AT or not start.startswith(_START):
        return None
    nbytes = int.from_bytes(start[-4:], "little")
    if not 0 < nbytes <= PLANS_NBYTES:  # 0 ends a stream without a batch
        return None
    return bytes(view[_BATCH_AT : _BATCH_AT + nbytes])


def _texts(values: tuple[Any, ...], segments: Segments, name: str, rows: int) -> list[bytes]:
    data: bytes = values[segments.slices[name].start]
    if rows == 1:
        return [data]
    ends = values[segments.slices[f"{name}.ends"]]
    if ends[0] != 0 or ends[-1] != len(data) or list(ends) != sorted(ends):
        raise ValueError("offsets")
    return [data[start:end] for start, end in pairwise(ends)]


def _int_of(text: bytes, is_valid: bool) -> int | None:
    if not is_valid:
        return None if not text else _refuse()
    return int(text) if text.isdigit() and len(text) < 1000 else exact_int(str(text, "utf-8"))


def _text_of(text: bytes, is_valid: bool) -> str | None:
    if not is_valid:
        return None if not text else _refuse()
    return str(text, "utf-8")


def _refuse() -> NoReturn:
    raise ValueError("bytes under a null")


class _Memory:
    """Find the bytes of a planned message's tensors, and make the tensors."""

    __slots__ = ("alias", "frames", "skeleton", "view", "views", "writable")

    def __init__(
        self,
        frames: Sequence[Any],
        skeleton: _Skeleton,
        view: memoryview | None,
        views: Sequence[bytes],
        *,
        writable: bool,
    ) -> None:
        self.frames = frames
        self.skeleton = skeleton
        self.view = view
        self.views = views
        self.writable = writable
        self.alias: Any = None

    def make(self, tensor: _Tensor, is_torch: bool, expand: bool) -> Any:
        """Return a tensor of the plan over its bytes.

        Raises
        ------
        MMFormatError
            If a code is not in its dictionary, or a library is missing.
        """
        if not tensor.is_simple:
            return tensor_of(
                self.entry(tensor),
                torch=is_torch,
                expand=expand,
                writable=self.writable,
                path=tensor.path,
            )
        at = tensor.chunks.start
        number = self.skeleton.numbers[at]
        if number < 0:
            value = self.views[at]
            return tensor.torch(bytearray(value), 0) if is_torch else tensor.numpy(value, 0)
        offset, nbytes = self.skeleton.buffers[number]
        if self.view is None:
            frame = self.frames[self.skeleton.frame_of[number]]
            if not is_torch:
                return tensor.numpy(frame, 0)
            return tensor.torch(writable_memory(frame, copy=self.writable), 0)
        if not is_torch:
            return tensor.numpy(self.view, offset)
        if not self.view.readonly:
            return tensor.torch(self.view, offset)
        if self.writable and type(self.view.obj) is bytes:
            return tensor.torch(copied(self.view[offset : offset + nbytes]), 0)
        if self.alias is None:
            self.alias = writable_memory(self.view, copy=False)
        return tensor.torch(self.alias, offset)

    def entry(self, tensor: _Tensor) -> TensorEntry:
        """Return the entry of a tensor with its data."""
        return tensor.entry._replace(data=[self._bytes(at) for at in tensor.chunks])

    def _bytes(self, at: int) -> Any:
        number = self.skeleton.numbers[at]
        if number < 0:
            return self.views[at]
        if self.view is None:
            return self.frames[self.skeleton.frame_of[number]]
        offset, nbytes = self.skeleton.buffers[number]
        return self.view[offset : offset + nbytes]


def learn(
    frames: Sequence[Any],
    limits: Limits,
    rows: Sequence[Row],
    assemble: Callable[[Make], MultimodalInputs],
) -> None:
    """Make a plan of a message that was decoded, if one of its structure was decoded before.

    Parameters
    ----------
    frames : sequence of buffers of bytes
        The message; it has passed every check.
    limits : Limits
        Those that it has passed.
    rows : sequence of Row
        Its rows, in order.
    assemble : callable
        Make the inputs of the message with tensors of the caller's making.
    """
    view = memoryview(frames[0])
    metadata = _metadata_of(view)
    if metadata is None or not _seen(metadata):
        return
    skeleton = _SKELETONS.get(metadata)
    if skeleton is None:
        skeleton = _skeleton_of(metadata, view, sum([len(frame) for frame in frames]))
        if skeleton is None:
            return
        _SKELETONS.put(metadata, skeleton, len(metadata) + skeleton.segments.fixed.size)
    elif not skeleton.fits(view):
        return
    fixed = b"".join(skeleton.segments.fixed.unpack_from(view, skeleton.columns_at))
    if not _seen((metadata, fixed)) and any(key[0] is skeleton for key in list(_PLANS.values)):
        return  # other attributes each time are not worth a plan each time
    text_nbytes = sum([len(row.attributes or "") for row in rows])
    nbytes = skeleton.segments.fixed.size + _ATTRIBUTES_FACTOR * text_nbytes
    if not _PLANS.keeps(nbytes):
        return  # before it is made: a plan of many attributes takes far more than their text
    try:
        plan = _planned(rows, assemble, limits)
    except NoPlanError:
        return
    _PLANS.put((skeleton, fixed), plan, nbytes)


def _skeleton_of(metadata: bytes, view: memoryview, nbytes: int) -> _Skeleton | None:
    batch = read_batch_metadata(metadata)
    columns_at = _BATCH_AT + len(metadata)
    if batch.compressed or nbytes != columns_at + batch.body_nbytes + len(END_OF_STREAM):
        return None
    structure = plain_structure(batch)
    size = layout_of(structure).columns.size
    columns = bytes(view[columns_at : columns_at + size])
    if len(columns) < size or not structure.lengths[0]:
        return None
    return _Skeleton(structure, columns, columns_at, batch.buffers[2 * BUFFERS :])


class _Slot:
    """Placeholder of a tensor among the values of a plan."""

    __slots__ = ("index",)

    def __init__(self, index: int) -> None:
        self.index = index


def _planned(
    rows: Sequence[Row], assemble: Callable[[Make], MultimodalInputs], limits: Limits
) -> _Plan:
    entries = [entry for row in rows for entry in row.tensors]
    ends = accumulate([len(entry.data) for entry in entries], initial=0)
    chunks = {
        id(entry): range(*bounds) for entry, bounds in zip(entries, pairwise(ends), strict=True)
    }
    tensors: list[_Tensor] = []

    def make(entry: TensorEntry, is_torch: bool, path: str) -> _Slot:
        tensors.append(_Tensor(entry, chunks[id(entry)], is_torch, path))
        return _Slot(len(tensors) - 1)

    inputs = assemble(make)
    items = []
    ranges = 0
    for item in inputs.items:
        count = len(item.offsets or ())
        items.append(
            _Row(
                item.modality,
                item.format,
                item.hash is not None,
                item.pad_value is not None,
                item.identity is not None,
                None if item.offsets is None else slice(ranges, ranges + count),
                _build_of(item.feature),
                _build_of(item.precomputed_embeddings),
                _build_of(item.model_specific_data),
            )
        )
        ranges += count
    return _Plan(
        limits,
        items,
        _build_of(inputs.request_data),
        tensors,
        sum(
            [
                TensorSpec(tensor.entry.dtype, tensor.shape).nbytes
                for tensor in tensors
                if tensor.entry.encoding == DICTIONARY
            ]
        ),
    )


_IMMUTABLE: Final = frozenset({str, int, float, complex, bool, bytes, type(None)})


class _Constant:
    """Return the same immutable value each time."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __call__(self, tensors: list[Any]) -> Any:
        return self.value


def _build_of(value: Any) -> Build:
    """Return a function that rebuilds the value with other tensors; lists and dicts are new."""
    kind = type(value)
    if kind is _Slot:
        return itemgetter(value.index)
    if kind in _IMMUTABLE or isinstance(value, np.generic):
        return _Constant(value)
    if kind is dict:
        return _build_of_dict(value)
    if kind is list or kind is tuple:
        builds = [_build_of(part) for part in value]
        if all(type(build) is _Constant for build in builds):
            return _Constant(value) if kind is tuple else lambda tensors: value.copy()
        if kind is tuple:
            return lambda tensors: tuple([build(tensors) for build in builds])
        return lambda tensors: [build(tensors) for build in builds]
    if kind is bytearray:
        return lambda tensors: value.copy()
    raise NoPlanError


def _build_of_dict(value: dict[Any, Any]) -> Build:
    if not all(type(_build_of(key)) is _Constant for key in value):
        raise NoPlanError
    builds = [(key, _build_of(part)) for key, part in value.items()]
    builds = [(key, build) for key, build in builds if type(build) is not _Constant]
    if not builds:
        return lambda tensors: value.copy()
    if len(builds) == 1:
        ((only, build_only),) = builds

        def make_one(tensors: list[Any]) -> dict[Any, Any]:
            made = value.copy()
            made[only] = build_only(tensors)
            return made

        return make_one

    def make(tensors: list[Any]) -> dict[Any, Any]:
        made = value.copy()
        for key, build in builds:
            made[key] = build(tensors)
        return made

    return make


def forget_plans() -> None:
    """Drop every plan, as before the first message."""
    for each in (_SKELETONS, _PLANS, _seen):
        each.clear()
