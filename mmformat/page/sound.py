"""Draw sound: samples as a waveform, frames of frequencies as a picture."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from mmformat.page.markup import Markup, tag
from mmformat.page.png import write_png
from mmformat.page.reading import StoredTensor

__all__ = ["Spectrogram", "Waveform", "spectrograms_of", "waveforms_of"]

_BANDS: Final = (40, 64, 80, 96, 128, 160, 256, 512)
_MOST_CHANNELS: Final = 8
_LEAST_SAMPLES: Final = 1000
_COLUMNS: Final = 640
_PER_COLUMN: Final = 512
_HEIGHT: Final = 100

# From dark violet over teal to pale yellow: as bright as it is loud, in gray and to every eye.
_COLOURS: Final = np.array(
    [
        [68, 1, 84], [72, 40, 120], [62, 74, 137], [49, 104, 142], [38, 130, 142],
        [31, 158, 137], [53, 183, 121], [109, 205, 89], [180, 222, 44], [253, 231, 37],
    ]
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Waveform:
    """Hold one channel's drawing and how many samples it has."""

    channel: int
    samples: int
    svg: Markup


@dataclass(frozen=True, slots=True, kw_only=True)
class Spectrogram:
    """Hold a drawn picture of frames and bands; the lowest band is at the bottom."""

    bands: int
    frames: int
    png: bytes
    least: float
    most: float


def waveforms_of(tensor: StoredTensor, *, label: str) -> list[Waveform]:
    """Return a waveform a channel; none when the tensor does not look like samples."""
    if tensor.table is not None or tensor.dtype.startswith(("bool", "complex")):
        return []
    shape = tensor.words.shape
    channels, samples = math.prod(shape[:-1]), shape[-1] if shape else 0
    if samples < _LEAST_SAMPLES or not 1 <= channels <= _MOST_CHANNELS:
        return []
    flat = tensor.words.reshape(channels, samples)
    return [
        Waveform(channel=at, samples=samples, svg=_waveform(tensor, flat[at], label=label))
        for at in range(channels)
    ]


def spectrograms_of(tensor: StoredTensor, *, most: int) -> list[Spectrogram]:
    """Return at most ``most`` pictures; none when the tensor does not look like frames of bands."""
    shape = tensor.words.shape
    if tensor.table is not None or len(shape) < 2 or 0 in shape or tensor.dtype == "bool":
        return []
    if shape[-2] in _BANDS:
        stack = tensor.words.reshape(-1, *shape[-2:])
    elif shape[-1] in _BANDS:
        stack = tensor.words.reshape(-1, *shape[-2:]).transpose(0, 2, 1)
    else:
        return []
    return [_spectrogram(tensor, stack[at]) for at in range(min(most, len(stack)))]


def _waveform(tensor: StoredTensor, words: npt.NDArray[Any], *, label: str) -> Markup:
    columns = min(_COLUMNS, words.size)
    edges = np.linspace(0, words.size, columns + 1).astype(np.intp)
    span = int(np.diff(edges).max())
    taken = min(span, _PER_COLUMN)
    offsets = (np.arange(taken) * span // taken)[None, :]
    at = np.minimum(edges[:-1, None] + offsets, edges[1:, None] - 1)
    values = np.nan_to_num(tensor.floats(words[at]), nan=0.0, posinf=0.0, neginf=0.0)
    least, most = values.min(axis=1), values.max(axis=1)
    peak = max(float(abs(values).max()), 1e-30)
    middle, reach = _HEIGHT / 2, _HEIGHT / 2 - 2
    top = middle - most / peak * reach - 0.4
    bottom = middle - least / peak * reach + 0.4
    steps = [f"{x} {y:.1f}" for x, y in enumerate(top)]
    steps += [f"{columns - 1 - x} {y:.1f}" for x, y in enumerate(bottom[::-1])]
    return tag(
        "svg",
        tag("line", x1=0, y1=middle, x2=columns - 1, y2=middle, class_="axis"),
        tag("path", d="M" + "L".join(steps) + "Z", class_="wave"),
        viewBox=f"0 0 {columns - 1} {_HEIGHT}",
        preserveAspectRatio="none",
        role="img",
        aria_label=label,
        class_="waveform",
    )


def _spectrogram(tensor: StoredTensor, words: npt.NDArray[Any]) -> Spectrogram:
    bands, frames = words.shape
    columns = min(_COLUMNS, frames)
    fine = max(1, min(4, frames // columns))
    at = ((np.arange(columns * fine) + 0.5) * frames / (columns * fine)).astype(np.intp)
    values = tensor.floats(words[:, at])
    finite = values[np.isfinite(values)]
    least, most = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    values = np.nan_to_num(values, nan=least, posinf=most, neginf=least)
    values = values.reshape(bands, columns, fine).mean(axis=2)
    extent = most - least
    levels = (values - least) / extent * 255 if extent > 0 else np.zeros_like(values)
    shades = np.linspace(0, len(_COLOURS) - 1, 256)
    palette = np.stack(
        [np.interp(shades, np.arange(len(_COLOURS)), _COLOURS[:, each]) for each in range(3)],
        axis=1,
    )
    picture = np.round(levels).astype(np.uint8)[::-1]
    png = write_png(picture, palette=palette.astype(np.uint8))
    return Spectrogram(bands=bands, frames=frames, png=png, least=least, most=most)
