"""Find the pictures in a feature: planes of pixels, or the patches that Qwen cuts them into."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from mmformat.page.markup import TIMES
from mmformat.page.reading import StoredTensor

__all__ = ["Sheet", "sheets_of"]

Pick = Callable[[int, npt.NDArray[np.intp], npt.NDArray[np.intp]], npt.NDArray[Any]]
"""``pick(picture, rows, columns)`` returns stored words (rows, columns, channels)."""

_CHANNELS: Final = (1, 3, 4)
_LEAST_EDGE: Final = 8
_PATCH_EDGES: Final = range(4, 65)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Sheet:
    """Say how the pixels of one or more pictures of one size are read.

    Parameters
    ----------
    count, height, width, channels : int
        Extents, in pictures and pixels.
    per_step : int
        How many pictures a step in time has; more than 1 for patches that span time.
    layout : str
        For a person.
    pick : callable
        See :data:`Pick`.
    channel_stride : int
        Stored elements from one channel to the next.
    """

    count: int
    height: int
    width: int
    channels: int
    layout: str
    pick: Pick
    channel_stride: int
    per_step: int = 1


def sheets_of(tensor: StoredTensor, data: Mapping[str, Any]) -> list[Sheet]:
    """Return the pictures that a feature holds; none when it does not look like pictures.

    Parameters
    ----------
    tensor : StoredTensor
        A feature of an image or a video.
    data : mapping
        The item's model-specific data; ``image_grid_thw`` and ``video_grid_thw`` say how patches
        lie.
    """
    grids = [_grid(value) for key, value in data.items() if str(key).endswith("grid_thw")]
    for grid in grids:
        found = [] if grid is None else list(_patch_sheets(tensor, grid))
        if found:
            return found
    return _plane_sheets(tensor)


def _grid(value: Any) -> npt.NDArray[np.int64] | None:
    if not isinstance(value, StoredTensor) or value.table is not None:
        return None
    words = value.words
    if words.dtype.kind not in "iu" or not 3 <= words.size <= 3 * 4096 or words.size % 3:
        return None
    grid = words.reshape(-1, 3).astype(np.int64)
    return grid if ((grid > 0) & (grid < 2**20)).all() else None


def _patch_sheets(tensor: StoredTensor, grid: npt.NDArray[np.int64]) -> Iterator[Sheet]:
    words = tensor.words
    patches = _as_patches(tensor)
    if patches is None or int(grid.prod(axis=1).sum()) != words.shape[0]:
        return
    span, edge = patches.shape[2:4]
    start = 0
    for steps, rows, columns in grid.tolist():
        merge = 2 if rows % 2 == 0 and columns % 2 == 0 else 1
        stop = start + steps * rows * columns
        cells = patches[start:stop].reshape(
            steps, rows // merge, columns // merge, merge, merge, *patches.shape[1:]
        )
        start = stop
        told = f"patches of {edge} {TIMES} {edge}"
        if merge > 1:
            told += f", in blocks of {merge} {TIMES} {merge}"
        yield Sheet(
            count=steps * span,
            height=rows * edge,
            width=columns * edge,
            channels=patches.shape[1],
            per_step=span,
            channel_stride=span * edge * edge,
            layout=told + (f", {span} frames each" if span > 1 else ""),
            pick=_patch_picker(cells, span=span, edge=edge, merge=merge),
        )


def _as_patches(tensor: StoredTensor) -> npt.NDArray[Any] | None:
    """Return a view (patches, 3, frames, edge, edge), or None."""
    words = tensor.words
    shape = words.shape
    if tensor.table is not None and tensor.table.shape[0] > 1 and tensor.axis != 1:
        return None
    if len(shape) == 4 and shape[1] == 3 and shape[2] == shape[3]:
        return words[:, :, None]
    if len(shape) == 5 and shape[1] == 3 and shape[3] == shape[4]:
        return words
    if len(shape) == 2 and (tensor.table is None or tensor.table.shape[0] == 1):
        for span in (2, 1):
            edge = math.isqrt(shape[1] // (3 * span))
            if edge in _PATCH_EDGES and 3 * span * edge * edge == shape[1]:
                return words.reshape(shape[0], 3, span, edge, edge)
    return None


def _patch_picker(cells: npt.NDArray[Any], *, span: int, edge: int, merge: int) -> Pick:
    def parts(at: npt.NDArray[np.intp]) -> tuple[Any, Any, Any]:
        patch, within = np.divmod(at, edge)
        block, part = np.divmod(patch, merge)
        return block, part, within

    def pick(number: int, ys: npt.NDArray[np.intp], xs: npt.NDArray[np.intp]) -> npt.NDArray[Any]:
        (by, py, y), (bx, px, x) = parts(ys[:, None]), parts(xs[None, :])
        found: npt.NDArray[Any] = cells[number // span][by, bx, py, px, :, number % span, y, x]
        return found

    return pick


def _plane_sheets(tensor: StoredTensor) -> list[Sheet]:
    words = tensor.words
    shape = words.shape
    channels_first = len(shape) >= 3 and shape[-3] in _CHANNELS and min(shape[-2:]) >= _LEAST_EDGE
    channels_last = len(shape) >= 3 and shape[-1] in _CHANNELS and min(shape[-3:-1]) >= _LEAST_EDGE
    if not (channels_first or channels_last) or 0 in shape:
        return []
    axis = len(shape) - 3 if channels_first else len(shape) - 1
    if tensor.table is not None and tensor.table.shape[0] > 1 and tensor.axis != axis:
        return []
    stack = words.reshape(-1, *shape[-3:])
    stack = stack.transpose(0, 2, 3, 1) if channels_first else stack
    count, height, width, channels = stack.shape

    def pick(number: int, ys: npt.NDArray[np.intp], xs: npt.NDArray[np.intp]) -> npt.NDArray[Any]:
        found: npt.NDArray[Any] = stack[number][ys[:, None], xs[None, :]]
        return found

    order = "channels first" if channels_first else "channels last"
    return [
        Sheet(
            count=count,
            height=height,
            width=width,
            channels=channels,
            layout=order,
            pick=pick,
            channel_stride=height * width if channels_first else 1,
        )
    ]
