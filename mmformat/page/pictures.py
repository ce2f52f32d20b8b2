"""Draw images and frames small, from the pixels that a small picture needs and no others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mmformat.page.layouts import Sheet, sheets_of
from mmformat.page.normalization import Scaling, find_scaling
from mmformat.page.png import write_png
from mmformat.page.reading import StoredTensor

__all__ = ["Picture", "Series", "series_of"]

_SAMPLE_EDGE = 48
_FINEST = 3
_STRIP = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """Hold one drawn picture: its number in the series, its PNG, and the size it was drawn in."""

    number: int
    png: bytes
    width: int
    height: int


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Series:
    """Hold the pictures of one size that a feature contains.

    Parameters
    ----------
    sheet : Sheet
        Where their pixels lie.
    count : int
        How many different ones there are.
    scaling : Scaling
        How values became pixels.
    """

    tensor: StoredTensor
    sheet: Sheet
    count: int
    scaling: Scaling

    def draw(self, number: int, *, edge: int) -> Picture:
        """Draw one picture, with its longer edge at most ``edge`` pixels."""
        sheet = self.sheet
        scale = min(1.0, edge / max(sheet.height, sheet.width))
        height = max(1, round(sheet.height * scale))
        width = max(1, round(sheet.width * scale))
        # Each pixel is the mean of a few, so that fine patterns do not turn into others.
        fine = min(_FINEST, int(np.ceil(1 / scale)))
        at = number * (sheet.count // self.count)
        ys, xs = _spread(height * fine, sheet.height), _spread(width * fine, sheet.width)
        strips = []
        for start in range(0, height, _STRIP):
            rows = ys[start * fine : (start + _STRIP) * fine]
            values = self.scaling.bytes(_values(self.tensor, sheet, at, rows, xs))
            values = values.reshape(-1, fine, width, fine, sheet.channels)
            strips.append(values.mean(axis=(1, 3)))
        pixels = np.concatenate(strips)
        drawn = np.round(pixels).astype(np.uint8)
        drawn = drawn[..., 0] if sheet.channels == 1 else drawn[..., :3]
        return Picture(number=number, png=write_png(drawn), width=width, height=height)


def series_of(
    tensor: StoredTensor, data: Mapping[str, Any], *, is_video: bool = False
) -> list[Series]:
    """Return the pictures that a feature holds, each series with its scaling; none for no pictures.

    Parameters
    ----------
    tensor : StoredTensor
        A feature of an image or a video.
    data : mapping
        The item's model-specific data.
    is_video : bool
        Otherwise the frames of a step in time are one still repeated, and it is drawn once.
    """
    found = []
    for sheet in sheets_of(tensor, data):
        count = sheet.count if is_video else sheet.count // sheet.per_step
        floats = tensor.dtype.startswith(("float", "bfloat"))
        scaling = find_scaling(_sampled(tensor, sheet), floats=floats)
        found.append(Series(tensor=tensor, sheet=sheet, count=count, scaling=scaling))
    return found


def _sampled(tensor: StoredTensor, sheet: Sheet) -> npt.NDArray[np.float64]:
    if tensor.table is not None:  # every value that there can be
        entries = tensor.table.shape[1]
        codes = np.broadcast_to(np.arange(entries)[:, None], (entries, sheet.channels))
        return np.asarray(tensor.floats(codes, np.arange(sheet.channels)))
    numbers = sorted({0, sheet.count // 2, sheet.count - 1})
    ys = _spread(min(_SAMPLE_EDGE, sheet.height), sheet.height)
    xs = _spread(min(_SAMPLE_EDGE, sheet.width), sheet.width)
    parts = [_values(tensor, sheet, number, ys, xs) for number in numbers]
    return np.concatenate([part.reshape(-1, sheet.channels) for part in parts])


def _values(
    tensor: StoredTensor,
    sheet: Sheet,
    number: int,
    ys: npt.NDArray[np.intp],
    xs: npt.NDArray[np.intp],
) -> npt.NDArray[Any]:
    return tensor.floats(sheet.pick(number, ys, xs), np.arange(sheet.channels))


def _spread(count: int, extent: int) -> npt.NDArray[np.intp]:
    return ((np.arange(count) + 0.5) * extent / count).astype(np.intp)
