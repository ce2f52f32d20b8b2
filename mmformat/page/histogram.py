"""Draw how often a tensor's values occur."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from mmformat.page.markup import Markup, tag
from mmformat.page.sampling import Summary

__all__ = ["Histogram", "draw_histogram", "number"]

_BINS: Final = 64
_HEIGHT: Final = 64
_WIDTH: Final = 640
_LEAST_BAR: Final = 1.0
_CHANNELS: Final = ("red", "green", "blue")
_STEEP: Final = 60.0
"""How much higher than the middle the highest bar may be before heights are logarithms."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Histogram:
    """Hold the drawing, what its ends mean, and how it is to be read."""

    svg: Markup
    least: str
    most: str
    is_logarithmic: bool
    has_channels: bool


def draw_histogram(summary: Summary, *, label: str) -> Histogram | None:
    """Return a histogram, or None where all values are the same or there are none.

    Notes
    -----
    Three channels are drawn over each other in their colours.
    """
    values = summary.values
    if values.size == 0 or values.min() == values.max():
        return None
    least, most = float(values.min()), float(values.max())
    whole = most / 2 - least / 2 < _BINS / 2 and bool((values == np.floor(values)).all())
    channels = 3 if summary.channels.size and summary.channels.max() == 2 else 1
    parts = [values if channels == 1 else values[summary.channels == at] for at in range(channels)]
    try:
        if whole:
            edges = np.arange(least, most + 2) - 0.5
            counts = np.stack([np.histogram(part, edges)[0] for part in parts])
        else:
            # Halves, so that the extent of the largest doubles is no infinity.
            extent = (least / 2, most / 2)
            counts = np.stack([np.histogram(part / 2, _BINS, range=extent)[0] for part in parts])
    except ValueError:  # so near to each other that there are no doubles between them
        return None
    used = counts[counts > 0]
    logarithmic = bool(used.max() > _STEEP * np.median(used))
    heights = np.log1p(counts) if logarithmic else counts.astype(np.float64)
    heights = heights / heights.max() * (_HEIGHT - 2)
    svg = tag(
        "svg",
        *(
            _bars(row, class_="bar" if channels == 1 else f"bar {_CHANNELS[at]}")
            for at, row in enumerate(heights)
        ),
        viewBox=f"0 0 {_WIDTH} {_HEIGHT}",
        preserveAspectRatio="none",
        role="img",
        aria_label=label,
        class_="histogram",
    )
    return Histogram(
        svg=svg,
        least=number(least),
        most=number(most),
        is_logarithmic=logarithmic,
        has_channels=channels > 1,
    )


def _bars(heights: npt.NDArray[np.float64], *, class_: str) -> Markup:
    """Return all bars as one path; an empty bin has none, any other at least a line."""
    wide = _WIDTH / len(heights)
    gap = wide * 0.12 if class_ == "bar" else 0.0
    steps = [
        f"M{at * wide:.1f} {_HEIGHT}v-{max(height, _LEAST_BAR):.1f}h{wide - gap:.1f}V{_HEIGHT}z"
        for at, height in enumerate(heights)
        if height > 0
    ]
    return tag("path", d="".join(steps), class_=class_)


def number(value: float) -> str:
    """Return a number in at most about six characters.

    >>> number(-1.7922625), number(151655.0), number(0.0)
    ('-1.792', '151655', '0')
    """
    return str(int(value)) if value == int(value) and abs(value) < 1e7 else f"{value:.4g}"
