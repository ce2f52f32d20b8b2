"""Find the pictures in a feature, undo their normalization, and draw them small."""

from __future__ import annotations

import base64
import math
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from mmformat.page.html import TIMES
from mmformat.page.values import StoredTensor

__all__ = [
    "Picture",
    "Scaling",
    "Series",
    "Sheet",
    "data_uri",
    "find_scaling",
    "series_of",
    "sheets_of",
    "write_png",
]


def write_png(
    pixels: npt.NDArray[np.uint8], *, palette: npt.NDArray[np.uint8] | None = None
) -> bytes:
    """Return a picture as PNG.

    Parameters
    ----------
    pixels : uint8 array
        (height, width, 3) is colour; (height, width) is gray, or the palette's numbers.
    palette : uint8 array (256, 3), optional
        The colours that the numbers stand for.

    Examples
    --------
    >>> write_png(np.zeros((2, 3), np.uint8))[1:4]
    b'PNG'
    """
    height, width = pixels.shape[:2]
    colour_type = 2 if pixels.ndim == 3 else 3 if palette is not None else 0
    header = struct.pack(">IIBBBBB", width, height, 8, colour_type, 0, 0, 0)
    rows = np.ascontiguousarray(pixels).reshape(height, -1)
    # Numbers of a palette have no gradients that a filter could use.
    lines = _plain(rows) if palette is not None else _filtered(rows, 3 if pixels.ndim == 3 else 1)
    parts = [b"\x89PNG\r\n\x1a\n", _chunk(b"IHDR", header)]
    if palette is not None:
        parts.append(_chunk(b"PLTE", palette.tobytes()))
    parts += [_chunk(b"IDAT", zlib.compress(lines, 9)), _chunk(b"IEND", b"")]
    return b"".join(parts)


def data_uri(png: bytes) -> str:
    """Return a PNG as the address of a picture within the page."""
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _plain(rows: npt.NDArray[np.uint8]) -> bytes:
    return np.insert(rows, 0, 0, axis=1).tobytes()


def _filtered(rows: npt.NDArray[np.uint8], step: int) -> bytes:
    """Write each row by the filter with the least sum of differences, as libpng does."""
    here = rows.astype(np.int16)
    left, up, corner = np.zeros_like(here), np.zeros_like(here), np.zeros_like(here)
    left[:, step:] = here[:, :-step]
    up[1:] = here[:-1]
    corner[1:, step:] = here[:-1, :-step]
    guess = left + up - corner
    far_left, far_up, far_corner = abs(guess - left), abs(guess - up), abs(guess - corner)
    paeth = np.where(
        (far_left <= far_up) & (far_left <= far_corner),
        left,
        np.where(far_up <= far_corner, up, corner),
    )
    tries = np.stack([here, here - left, here - up, here - (left + up) // 2, here - paeth])
    tries = tries.astype(np.uint8)
    chosen = abs(tries.view(np.int8).astype(np.int16)).sum(axis=2).argmin(axis=0)
    lines = tries[chosen, np.arange(len(rows))]
    whole: npt.NDArray[np.uint8] = np.insert(lines, 0, chosen, axis=1)
    return whole.tobytes()


_KNOWN: Final[tuple[tuple[str, tuple[float, ...], tuple[float, ...]], ...]] = (
    ("floats from 0 to 255", (0.0,), (1 / 255,)),
    ("scaled from 0 to 1", (0.0,), (1.0,)),
    ("mean 0.5, std 0.5 undone", (0.5,), (0.5,)),
    (
        "CLIP's mean and std undone",
        (0.48145466, 0.4578275, 0.40821073),
        (0.26862954, 0.26130258, 0.27577711),
    ),
    ("ImageNet's mean and std undone", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
)
_NEAR: Final = 0.12
"""Of a byte, on average: values that were no bytes lie 0.25 away from the nearest one."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Scaling:
    """Turn values (..., channels) into the bytes of pixels.

    Parameters
    ----------
    factor, shift : float64 array (1 or channels)
        ``byte = value * factor + shift``.
    told : str
        How it was found, for a person.
    """

    factor: npt.NDArray[np.float64]
    shift: npt.NDArray[np.float64]
    told: str

    def bytes(self, values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """Return the values as numbers from 0 to 255, not rounded; what is no number is 0."""
        scaled = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0) * self.factor + self.shift
        clipped: npt.NDArray[np.float64] = np.clip(scaled, 0.0, 255.0)
        return clipped


def find_scaling(values: npt.NDArray[np.float64], *, floats: bool) -> Scaling:
    """Return how values become bytes.

    Parameters
    ----------
    values : float64 array (n, channels)
        A sample, or all entries of a dictionary.
    floats : bool
        Whether they were floats; whole numbers from 0 to 255 are bytes as they are.

    Examples
    --------
    >>> pixels = np.arange(256.0)[:, None] / 255
    >>> find_scaling((pixels - 0.5) / 0.5, floats=True).told
    'mean 0.5, std 0.5 undone'
    """
    seen = values[np.isfinite(values).all(axis=1)]
    if not seen.size:
        return Scaling(factor=np.zeros(1), shift=np.zeros(1), told="no finite values to draw")
    if not floats and seen.min() >= 0 and seen.max() <= 255:
        return Scaling(factor=np.ones(1), shift=np.zeros(1), told="bytes as they are")
    best: tuple[float, Scaling] | None = None
    for told, mean, std in _KNOWN if floats else ():
        if len(mean) not in (1, values.shape[1]):
            continue
        factor, shift = np.array(std) * 255, np.array(mean) * 255
        pixels = seen * factor + shift
        away = abs(pixels - np.round(pixels)).mean()
        fits = pixels.min() > -1 and pixels.max() < 256 and away < _NEAR
        if fits and (best is None or away < best[0] / 2):
            best = (float(away), Scaling(factor=factor, shift=shift, told=told))
    return best[1] if best is not None else _stretch(float(seen.min()), float(seen.max()))


def _stretch(least: float, most: float) -> Scaling:
    extent = most - least
    factor = 255 / extent if extent > 0 else 0.0
    return Scaling(
        factor=np.array([factor]),
        shift=np.array([-least * factor if extent > 0 else 127.0]),
        told=f"stretched: {least:.4g} is black, {most:.4g} is white",
    )


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
