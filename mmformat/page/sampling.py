"""Look at some of a tensor's values, spread over all of it, and say what they are like."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from mmformat.page.reading import StoredTensor

__all__ = ["Summary", "summarize"]

_RUN: Final = 1024
"""Neighbours that are read together, so that a page of a mapped file is read for many values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Say what sampled values are like.

    Parameters
    ----------
    values : float64 array
        The finite ones.
    channels : int array
        Which channel each of them is of; all 0 where there are none.
    looked_at, total : int
        How many values were looked at, and how many the stored tensor has.
    nans, infinities, zeros : int
        Of those that were looked at.
    """

    values: npt.NDArray[np.float64]
    channels: npt.NDArray[np.intp]
    looked_at: int
    total: int
    nans: int
    infinities: int
    zeros: int

    @property
    def is_whole(self) -> bool:
        """Whether every value was looked at."""
        return self.looked_at == self.total


def summarize(
    tensor: StoredTensor, *, most: int, channels: int = 1, channel_stride: int = 1
) -> Summary:
    """Look at ``most`` values, in runs that are spread evenly, and count what is special.

    Parameters
    ----------
    tensor : StoredTensor
        Whose values are looked at.
    most : int
        How many.
    channels, channel_stride : int
        How many channels the tensor has, and how many elements one channel is from the next.

    Notes
    -----
    **Copies**: the values that are looked at. **Cost**: in the measure of ``most``, whatever the
    tensor's size.
    """
    flat = tensor.words.reshape(-1)
    run = min(_RUN, most)
    indices: Any = np.arange(min(flat.size, max(1, most // run) * run))
    if flat.size > indices.size:
        starts = np.linspace(0, flat.size - run, indices.size // run).astype(np.int64)
        indices = (starts[:, None] + np.arange(run)).reshape(-1)
    rows: Any = 0
    if tensor.table is not None and tensor.table.shape[0] > 1:
        inner = math.prod(tensor.words.shape[tensor.axis + 1 :])
        rows = indices // max(1, inner) % tensor.table.shape[0]
    values = tensor.floats(flat[indices], rows)
    finite = np.isfinite(values)
    return Summary(
        values=values[finite],
        channels=(indices // max(1, channel_stride) % channels)[finite],
        looked_at=values.size,
        total=flat.size,
        nans=int(np.isnan(values).sum()),
        infinities=int(np.isinf(values).sum()),
        zeros=int((values == 0).sum()),
    )
