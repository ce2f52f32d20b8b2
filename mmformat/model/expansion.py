"""Look up dictionary codes: blockwise in numpy, or with plain torch operations on any device."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

__all__ = ["expand_numpy", "expand_torch"]

BLOCK: Final = 65_536
"""Codes looked up at once: their indices (8 bytes each) and values stay in a core's own cache."""

PAIRS_FROM: Final = 4 * BLOCK
"""Codes of a channel from which a table of all 65,536 pairs earns what it costs to make."""

_WIDER: Final[dict[int, np.dtype[Any]]] = {
    1: np.dtype("u2"),
    2: np.dtype("u4"),
    4: np.dtype("u8"),
    8: np.dtype("c16"),
}


def expand_numpy(
    codes: npt.NDArray[np.uint8],
    table: npt.NDArray[Any],
    *,
    axis: int,
    repeat_axis: int,
    repeat: int,
    out: npt.NDArray[Any] | None = None,
) -> npt.NDArray[Any]:
    """Return ``table[channel, code]`` for every code, repeated, in C order.

    Parameters
    ----------
    codes : uint8 array
        Every code is below the number of entries; that was checked.
    table : array of words, (channels, entries)
        Words are moved as they are, so that NaN payloads and -0.0 come through.
    out : array of such words, one axis, optional
        As many as there are elements in the result: where it is written.

    Notes
    -----
    **Copies**: every element of the result is written once, through a block of fixed size.
    """
    channels = table.shape[0]
    natural = codes.shape
    repeat_axis = 0 if repeat == 1 else repeat_axis
    # Bring everything to seven axes, of which one of the two for the repeat has extent 1 and the
    # channels are one axis that the table is walked along.
    if channels == 1 and natural[axis] != 1:
        before, after = natural[:repeat_axis], natural[repeat_axis:]
        five = (1, 1, 1, math.prod(before), math.prod(after))
        seven = (1, 1, 1, 1, five[3], repeat, five[4])
    elif repeat_axis <= axis:
        outer = math.prod(natural[:repeat_axis]), math.prod(natural[repeat_axis:axis])
        inner = math.prod(natural[axis + 1 :])
        five = (*outer, channels, 1, inner)
        seven = (outer[0], repeat, outer[1], channels, 1, 1, inner)
    else:
        lead = math.prod(natural[:axis])
        inner2 = math.prod(natural[axis + 1 : repeat_axis]), math.prod(natural[repeat_axis:])
        five = (lead, 1, channels, *inner2)
        seven = (lead, 1, 1, channels, inner2[0], repeat, inner2[1])
    folded = np.ascontiguousarray(codes).reshape(five)
    out = np.empty(seven, table.dtype) if out is None else out.reshape(seven)
    for channel in range(channels):
        _expand_channel(folded[:, :, channel], table[channel], out[:, :, :, channel])
    full = natural if repeat == 1 else (*natural[:repeat_axis], repeat, *natural[repeat_axis:])
    return out.reshape(full)


def expand_torch(
    codes: torch.Tensor,
    table: torch.Tensor,
    *,
    axis: int,
    repeat_axis: int,
    repeat: int,
) -> torch.Tensor:
    """Return ``table[channel, code]`` for every code, repeated, where codes and table lie.

    Notes
    -----
    **Copies**: 4 bytes a code for the indices, and every element of the result once (twice when
    there is a repeat).
    """
    import torch

    channels, entries = table.shape
    words = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    word = words.get(table.element_size())
    values = table.contiguous() if word is None else table.contiguous().view(word)
    indices = codes.to(torch.int32)
    if channels > 1:
        offsets = torch.arange(channels, dtype=torch.int32, device=codes.device) * entries
        indices += offsets.view(-1, *[1] * (codes.dim() - axis - 1))
    found = torch.index_select(values.view(-1), 0, indices.view(-1)).view(codes.shape)
    if word is not None:
        found = found.view(table.dtype)
    if repeat > 1:
        shape = (*codes.shape[:repeat_axis], repeat, *codes.shape[repeat_axis:])
        found = found.unsqueeze(repeat_axis).expand(shape).contiguous()
    return found


def _expand_channel(
    codes: npt.NDArray[np.uint8], values: npt.NDArray[Any], out: npt.NDArray[Any]
) -> None:
    # codes (a, b, c, d) -> out (a, repeat, b, c, repeat, d), one of the repeats being 1.
    if codes.size == 0:
        return
    wider = _WIDER.get(values.dtype.itemsize)
    indexed: npt.NDArray[Any] = codes
    if wider is not None and codes.size >= PAIRS_FROM and codes.shape[3] % 2 == 0:
        indexed, values, out = codes.view("<u2"), _pairs(values, wider), out.view(wider)
    rows, depth = indexed.shape[0], indexed.shape[1] * indexed.shape[2]
    columns = indexed.shape[3]
    row_step = max(1, BLOCK // (depth * columns))
    column_step = columns if depth * columns <= BLOCK else max(1, BLOCK // depth)
    for row in range(0, rows, row_step):
        for column in range(0, columns, column_step):
            block = indexed[row : row + row_step, :, :, column : column + column_step]
            found = np.take(values, block.astype(np.intp), mode="clip")
            target = out[row : row + row_step, ..., column : column + column_step]
            target[...] = found[:, None, :, :, None, :]


def _pairs(values: npt.NDArray[Any], wider: np.dtype[Any]) -> npt.NDArray[Any]:
    # Entry lo + 256 * hi holds the words of lo and hi behind each other, as two codes lie.
    padded = np.zeros(256, values.dtype)
    padded[: values.size] = values
    pairs = np.empty((256, 256, 2), values.dtype)
    pairs[:, :, 0] = padded
    pairs[:, :, 1] = padded[:, None]
    return pairs.reshape(-1).view(wider)
