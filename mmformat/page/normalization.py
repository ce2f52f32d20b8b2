"""Find out how pixels were normalized, from the values alone, and undo it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

__all__ = ["Scaling", "find_scaling"]

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
