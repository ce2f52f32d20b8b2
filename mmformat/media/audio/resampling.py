"""Bring samples to another rate with a windowed sinc, as torchaudio does."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import numpy.typing as npt

from mmformat.errors import MaterializeError

__all__ = ["resample"]

ZERO_CROSSINGS: Final = 6
ROLLOFF: Final = 0.99
MIN_RATE_HZ: Final = 1_000
MAX_RATE_HZ: Final = 768_000
_CHUNK_ELEMENTS: Final = 2**21
"""Of each array that is made on the way."""

Samples = npt.NDArray[np.float32]


def resample(samples: Samples, from_hz: int, *, to_hz: int) -> Samples:
    """Return the samples at another rate.

    Parameters
    ----------
    samples : float32 array (samples,)
        One channel.
    from_hz, to_hz : int
        Rates, 1,000 to 768,000.

    Returns
    -------
    float32 array (ceil(samples * to_hz / from_hz),)

    Raises
    ------
    MaterializeError
        When a rate is out of bounds.

    Notes
    -----
    **Copies**: none when the rates are equal. **Cost**: the filter holds only the taps that are not
    zero, so that a rate which shares no factor with the other stays below 150 MB (the reference's
    own table would take gigabytes).

    References
    ----------
    torchaudio 2.11, ``functional.resample`` with its defaults (sinc_interp_hann, 6 zero crossings,
    rolloff 0.99); the same weights, summed in another order.

    Examples
    --------
    >>> resample(np.ones(441, np.float32), 44_100, to_hz=16_000).shape
    (160,)
    """
    for rate in (from_hz, to_hz):
        if not MIN_RATE_HZ <= rate <= MAX_RATE_HZ:
            raise MaterializeError(
                f"expected a rate of {MIN_RATE_HZ:,} to {MAX_RATE_HZ:,} Hz, got {rate:,} Hz"
            )
    if from_hz == to_hz:
        return samples
    divisor = math.gcd(from_hz, to_hz)
    before, after = from_hz // divisor, to_hz // divisor
    weights, offsets, width = _filter(before, after)
    taps = weights.shape[1]
    padded = np.pad(samples, (width, width + taps + before))
    windows = np.lib.stride_tricks.sliding_window_view(padded, taps)
    out = np.empty(-(-len(samples) * after // before), np.float32)
    chunk = max(1, _CHUNK_ELEMENTS // taps)
    for start in range(0, len(out), chunk):
        number = np.arange(start, min(start + chunk, len(out)))
        phase = number % after
        first = number // after * before + offsets[phase] + width
        np.einsum("ij,ij->i", windows[first], weights[phase], out=out[start : start + chunk])
    return out


def _filter(before: int, after: int) -> tuple[Samples, npt.NDArray[np.int64], int]:
    # The output i of a period stands at i * before / after; its taps begin `width` samples earlier.
    base = min(before, after) * ROLLOFF
    width = math.ceil(ZERO_CROSSINGS * before / base)
    phases = np.arange(after)
    offsets = phases * before // after - width
    weights = np.empty((after, 2 * width + 2), np.float32)
    chunk = max(1, _CHUNK_ELEMENTS // weights.shape[1])
    for start in range(0, after, chunk):
        part = slice(start, start + chunk)
        index = offsets[part, None] + np.arange(weights.shape[1])
        # The phase is rounded to float32, as in the reference, before it meets the float64 index.
        shift = -phases[part].astype(np.float32) / np.float32(after)
        t = (shift[:, None].astype(np.float64) + index / before) * base
        t = t.clip(-ZERO_CROSSINGS, ZERO_CROSSINGS)
        window = np.cos(t * math.pi / ZERO_CROSSINGS / 2) ** 2
        weights[part] = np.sinc(t) * window * (base / before)
    return weights, offsets, width
