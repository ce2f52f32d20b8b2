"""Find the dictionary of a finished float tensor: exact for every element, or None."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from mmformat.errors import MaterializeError, ModelError
from mmformat.media.image.normalization import Normalization
from mmformat.model import DictionaryTensor
from mmformat.model.tensors import (
    is_tensor,
    is_torch,
    numpy_dtype,
    tensor_buffer,
    tensor_spec,
    torch_dtype,
)

if TYPE_CHECKING:
    import torch

__all__ = [
    "MAX_VALUES",
    "CodeMap",
    "PixelLayout",
    "find_dictionary",
]

MAX_VALUES: Final = 256

# Odd multipliers whose upper half spreads bit patterns; 256 values meet in 65,536 slots with a
# probability of about 0.4, so that one of these is free of meetings but for values made to meet.
_MULTIPLIERS: Final = tuple(
    np.uint32((0x9E3779B1 + 0x61C88646 * i) & 0xFFFFFFFF | 1) for i in range(64)
)
_HALF: Final = np.uint32(16)

# An empty slot holds a word that never comes to it, so that nothing is found there: of 16-bit words
# the slot's own complement; of 32-bit words 0, which comes to slot 0 alone, and there 1.
_EMPTY_16: Final = np.arange(65_536, dtype=np.uint32) ^ np.uint32(0xFFFF)
_EMPTY_32: Final = np.zeros(65_536, np.uint64)
_EMPTY_32[0] = 1


class CodeMap:
    """Map words (the bits of float32, float16 or bfloat16) to codes below 256.

    Parameters
    ----------
    values : array of uint32 or uint16
        The words that are known at first; a word's code is its first place. At most 256.

    Notes
    -----
    One entry of the table holds the word itself beside its code, so that one look-up both finds
    the code and proves it.

    Examples
    --------
    >>> known = CodeMap(np.array([10, 20], np.uint32))
    >>> codes = np.empty((1, 3), np.uint8)
    >>> known.encode(np.array([[20, 10, 30]], np.uint32), codes), codes.tolist()
    (True, [[1, 0, 2]])
    >>> known.values.tolist()
    [10, 20, 30]
    """

    __slots__ = ("_entries", "_multiplier", "values")

    def __init__(self, values: npt.NDArray[Any]) -> None:
        self.values = values
        self._multiplier: np.uint32 | None = None
        self._entries: npt.NDArray[Any] = np.empty(0, np.uint64)
        self._enter()

    def encode(self, words: npt.NDArray[Any], codes: npt.NDArray[np.uint8]) -> bool:
        """Write the code of each word; False when there are more than 256 words, or no hash.

        Parameters
        ----------
        words : array (rows, columns)
            Of the dtype of ``values``.
        codes : uint8 array (rows, columns)
            What is written; undefined when the result is False.
        """
        while self._entries.size:
            found = np.take(self._entries, self._slots(words), mode="clip")
            equal = found.astype(words.dtype) == words  # the lower half of an entry
            upper = found.view(np.uint8).reshape(*words.shape, found.itemsize)
            codes[...] = upper[..., words.itemsize]
            if bool(equal.all()):
                return True
            # Few distinct values: only the elements that failed can hold new ones.
            new = np.unique(words[~equal])
            if self.values.size + new.size > MAX_VALUES:
                return False
            self.values = np.concatenate([self.values, new])
            self._enter()
        return False

    def _enter(self) -> None:
        first, places = np.unique(self.values, return_index=True)
        if self.values.itemsize == 2:
            if not self._entries.size:
                self._entries = _EMPTY_16.copy()
            self._entries[first] = first.astype(np.uint32) | (places << 16).astype(np.uint32)
            return
        if not self._entries.size or not self._is_perfect(self._multiplier, first):
            free = next((each for each in _MULTIPLIERS if self._is_perfect(each, first)), None)
            self._entries = np.empty(0, np.uint64) if free is None else _EMPTY_32.copy()
            self._multiplier = free
        if self._multiplier is not None:
            slots = (first * self._multiplier) >> _HALF
            self._entries[slots] = first.astype(np.uint64) | (places << 32).astype(np.uint64)

    @staticmethod
    def _is_perfect(multiplier: np.uint32 | None, words: npt.NDArray[Any]) -> bool:
        if multiplier is None:
            return False
        return bool(np.unique((words * multiplier) >> _HALF).size == words.size)

    def _slots(self, words: npt.NDArray[Any]) -> npt.NDArray[np.intp]:
        if self._multiplier is None:
            return words.astype(np.intp)
        hashed: npt.NDArray[Any] = words * self._multiplier
        hashed >>= _HALF
        return hashed.astype(np.intp)


BLOCK: Final = 16_384
"""Elements looked up at once, so that what lies between stays in a core's own cache."""

QUICK: Final = 2_048
"""Neighbouring elements that tell embeddings from pixels, for the price of one sort."""

SAMPLE: Final = 16_384
"""Elements of each channel that the first table is made from; later ones may add to it."""

MIN_ELEMENTS: Final = 4_096
"""Below this a table costs about what it saves."""

MAX_CHANNELS: Final = 4
"""Of a layout that is guessed."""

PATCH_EDGES: Final = (14, 16, 32)
_DTYPES: Final = ("float32", "float16", "bfloat16")


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelLayout:
    """Where the channels of a tensor of pixels are.

    Parameters
    ----------
    view : tuple of int
        A shape with as many elements as the tensor, in its order.
    axis : int or None
        The channel axis of the view; None when all elements share one table.
    repeat_axis : int, optional
        An axis of the view along which the values may be the same; it is stored once if they are.

    Raises
    ------
    ModelError
        When the view has no such axis.

    Examples
    --------
    >>> PixelLayout(view=(64, 3, 2, 196), axis=1, repeat_axis=2).view
    (64, 3, 2, 196)
    """

    view: tuple[int, ...]
    axis: int | None
    repeat_axis: int | None = None

    def __post_init__(self) -> None:
        for name, axis in (("axis", self.axis), ("repeat_axis", self.repeat_axis)):
            if axis is not None and not 0 <= axis < len(self.view):
                raise ModelError(
                    f"expected an axis of {len(self.view)} axes, got {axis}", path=f"$.{name}"
                )
        if self.repeat_axis is not None and self.repeat_axis == self.axis:
            raise ModelError(f"axis and repeat_axis are both {self.axis}", path="$.repeat_axis")


def find_dictionary(
    tensor: Any,
    *,
    layout: PixelLayout | None = None,
    mean: tuple[float, ...] | float | None = None,
    std: tuple[float, ...] | float | None = None,
    rescale_factor: float = 1 / 255,
) -> DictionaryTensor | None:
    """Return a tensor as codes and a table of at most 256 values a channel, if it fits.

    Parameters
    ----------
    tensor : torch tensor or numpy array, float32, float16 or bfloat16
        On the CPU.
    layout : PixelLayout, optional
        Where the channels lie; guessed from the shape when omitted: channels third from the end or
        last, patches of Qwen2-VL and its kin, or one table for all.
    mean, std : tuple of float, float, optional
        What the pixels were normalized with: then a code is the byte that the pixel was (the
        least of those that round to one value). A wrong hint costs time, never exactness.
    rescale_factor : float
        What the bytes were multiplied with.

    Returns
    -------
    DictionaryTensor or None
        None when some channel takes more than 256 values, when the dtype or size is not worth it,
        or when the layout does not fit. The table is torch when the tensor is.

    Raises
    ------
    ModelError
        When the value is no tensor, or is on a device.

    Notes
    -----
    Bit patterns are compared, not numbers: NaN payloads and -0.0 come back as they went. Every
    element is verified. **Copies**: the codes are new (an eighth to a quarter of the tensor); a
    tensor that is not contiguous is copied first. **Cost**: one sort of 2,048 elements to turn away
    what is no image; else about one pass in blocks.

    Examples
    --------
    >>> bytes_ = np.arange(48 * 48 * 3, dtype=np.uint32).astype(np.uint8).reshape(3, 48, 48)
    >>> pixels = (bytes_ / 255).astype(np.float32)
    >>> find_dictionary(pixels).expand().tobytes() == pixels.tobytes()
    True
    """
    if not is_tensor(tensor):
        raise ModelError(f"expected a tensor, got {type(tensor).__name__}")
    spec = tensor_spec(tensor)
    count = math.prod(spec.shape)
    if spec.dtype not in _DTYPES or count < MIN_ELEMENTS:
        return None
    word = np.dtype(np.uint32 if spec.dtype == "float32" else np.uint16)
    words = np.frombuffer(memoryview(tensor_buffer(tensor)), word)
    middle = max(0, (count - QUICK) // 2)
    distinct = _distinct(words[middle : middle + QUICK])
    if layout is None and distinct > MAX_CHANNELS * MAX_VALUES:
        return None
    candidates = list(_layouts(spec.shape)) if layout is None else [layout]
    most = max(1 if each.axis is None else each.view[each.axis] for each in candidates)
    if distinct > most * MAX_VALUES:
        return None
    hints: list[Normalization | None] = [None]
    if mean is not None:
        pil = Normalization(rescale_factor=rescale_factor, mean=mean, std=std)
        hints = [replace(pil, fused=True), pil, None]  # either backend of transformers
    for candidate in candidates:
        if math.prod(candidate.view) != count:
            continue
        for seed in hints:
            found = _find(tensor, words, candidate, seed)
            if found is not None:
                return found if found.nbytes < spec.nbytes else None
    return None


def _layouts(shape: tuple[int, ...]) -> Iterator[PixelLayout]:
    if len(shape) >= 3 and shape[-3] in (1, 3, 4):
        yield PixelLayout(view=shape, axis=len(shape) - 3)
    if len(shape) >= 3 and shape[-1] in (3, 4):
        yield PixelLayout(view=shape, axis=len(shape) - 1)
    if len(shape) >= 2:
        lead, values = shape[:-1], shape[-1]
        axis = len(lead)
        for edge in PATCH_EDGES:
            area = edge * edge
            if values == 6 * area:
                yield PixelLayout(view=(*lead, 3, 2, area), axis=axis, repeat_axis=axis + 1)
            if values == 3 * area:
                yield PixelLayout(view=(*lead, 3, area), axis=axis)
                yield PixelLayout(view=(*lead, area, 3), axis=axis + 1)
    yield PixelLayout(view=shape or (1,), axis=None)


def _distinct(words: npt.NDArray[Any]) -> int:
    ordered = np.sort(words)
    return 1 + int(np.count_nonzero(ordered[1:] != ordered[:-1]))


def _find(
    tensor: Any, words: npt.NDArray[Any], layout: PixelLayout, hint: Normalization | None
) -> DictionaryTensor | None:
    spec = tensor_spec(tensor)
    view, axis = words.reshape(layout.view), layout.axis
    channels = 1 if axis is None else view.shape[axis]
    maps = _first_maps(_by_channel(view, axis), spec.dtype, hint)
    if maps is None:
        return None
    repeat_axis, repeat = layout.repeat_axis, 1
    if repeat_axis is not None and _is_repeated(view, repeat_axis):
        repeat = view.shape[repeat_axis]
        view = view[(slice(None),) * repeat_axis + (0,)]
        if axis is not None and repeat_axis < axis:
            axis -= 1
    codes = np.empty(view.shape, np.uint8)
    parts, targets = _by_channel(view, axis), _by_channel(codes, axis)
    for channel, known in enumerate(maps):
        if not _encode(parts[:, channel], targets[:, channel], known):
            return None
    table = np.zeros((channels, max(each.values.size for each in maps)), words.dtype)
    for channel, known in enumerate(maps):
        table[channel, : known.values.size] = known.values
    return DictionaryTensor(
        codes,
        _table_like(tensor, table, spec.dtype),
        axis=axis or 0,
        repeat_axis=0 if repeat == 1 or repeat_axis is None else repeat_axis,
        repeat=repeat,
        shape=spec.shape,
    )


def _by_channel(view: npt.NDArray[Any], axis: int | None) -> npt.NDArray[Any]:
    # (outer, channels, inner); a view, but of a repeat in an unusual place.
    if axis is None:
        return view.reshape(1, 1, -1)
    return view.reshape(math.prod(view.shape[:axis]), view.shape[axis], -1)


def _first_maps(
    parts: npt.NDArray[Any], dtype: str, hint: Normalization | None
) -> list[CodeMap] | None:
    channels = parts.shape[1]
    if hint is not None:
        try:
            table = hint.table(channels)
        except MaterializeError:
            return None  # a mean or std for another number of channels
        cast = DictionaryTensor(np.zeros((channels, 1), np.uint8), table).to(dtype).table
        values = np.frombuffer(memoryview(tensor_buffer(cast)), parts.dtype)
        return [CodeMap(seed) for seed in values.reshape(channels, MAX_VALUES)]
    found = []
    for channel in range(channels):
        part = parts[:, channel]
        values = np.unique(_neighbours(part))
        if values.size <= MAX_VALUES:
            values = np.unique(_spread(part))
        if values.size > MAX_VALUES:
            return None
        found.append(CodeMap(values))
    return found


def _neighbours(part: npt.NDArray[Any]) -> npt.NDArray[Any]:
    rows, columns = part.shape
    row = rows // 2
    column = max(0, (columns - QUICK) // 2)
    return part[row : row + max(1, QUICK // columns), column : column + QUICK]


def _spread(part: npt.NDArray[Any]) -> npt.NDArray[Any]:
    rows, columns = part.shape
    row_step = max(1, rows * min(columns, SAMPLE) // SAMPLE)
    column_step = max(1, (-(-rows // row_step)) * columns // SAMPLE)
    return part[::row_step, ::column_step]


def _is_repeated(view: npt.NDArray[Any], axis: int) -> bool:
    rows = view.reshape(math.prod(view.shape[:axis]), view.shape[axis], -1)
    if rows.shape[2] * rows.itemsize % 8 == 0:
        rows = rows.view(np.uint64)  # half as many comparisons, or a quarter
    step = max(1, BLOCK // (rows.shape[1] * rows.shape[2]))
    return all(
        bool((rows[start : start + step, 1:] == rows[start : start + step, :1]).all())
        for start in range(0, rows.shape[0], step)
    )


def _encode(part: npt.NDArray[Any], codes: npt.NDArray[np.uint8], known: CodeMap) -> bool:
    rows, columns = part.shape
    row_step = max(1, BLOCK // columns)
    return all(
        known.encode(
            part[row : row + row_step, column : column + BLOCK],
            codes[row : row + row_step, column : column + BLOCK],
        )
        for row in range(0, rows, row_step)
        for column in range(0, columns, BLOCK)
    )


def _table_like(
    tensor: Any, words: npt.NDArray[Any], dtype: str
) -> npt.NDArray[Any] | torch.Tensor:
    if is_torch(tensor):
        import torch

        return torch.from_numpy(words.view(np.uint8)).view(torch_dtype(dtype)).view(words.shape)
    return words.view(numpy_dtype(dtype))
