"""The size from which one way costs less than another."""

from __future__ import annotations

import math
from collections.abc import Iterable

__all__ = ["knee_nbytes"]


def knee_nbytes(
    ours: Iterable[tuple[float, float]], theirs: Iterable[tuple[float, float]]
) -> float | None:
    """Return the size from which ours costs less, or None when it never does.

    Parameters
    ----------
    ours, theirs : iterable of (float, float)
        Size and cost; the sizes are the same.

    Returns
    -------
    float or None
        Between two sizes the logarithm of the ratio is taken to be a line in the logarithm of the
        size. The smallest size that was measured, when ours costs less there and everywhere after.

    Examples
    --------
    >>> round(knee_nbytes([(1, 2.0), (4, 2.0)], [(1, 1.0), (4, 4.0)]), 6)
    2.0
    """
    mine, others = dict(ours), dict(theirs)
    points = [(at, math.log(mine[at] / others[at])) for at in sorted(mine) if at in others]
    knee: float | None = None
    for index in range(len(points) - 1, -1, -1):
        at, ratio = points[index]
        if ratio > 0:
            if index == len(points) - 1:
                return None
            after, less = points[index + 1]
            share = ratio / (ratio - less)
            return math.exp(math.log(at) + share * (math.log(after) - math.log(at)))
        knee = at
    return knee
