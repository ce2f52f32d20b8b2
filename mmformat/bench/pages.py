"""Read a byte of every page, so that no lazy way of carrying looks free."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import torch

from mmformat.bench.payloads import tensors_of
from mmformat.model import DictionaryTensor

__all__ = ["PAGE_NBYTES", "touch"]

PAGE_NBYTES: Final = 4096


def touch(value: Any) -> int:
    """Read a byte of every page of every tensor, and return their sum.

    Examples
    --------
    >>> touch([torch.ones(2 * PAGE_NBYTES, dtype=torch.uint8), np.full(3, 5, np.uint8)])
    7
    """
    total = 0
    for tensor in tensors_of(value):
        parts = [tensor.table, tensor.codes] if isinstance(tensor, DictionaryTensor) else [tensor]
        for part in parts:
            if isinstance(part, np.ndarray):
                raw = part.reshape(-1).view(np.uint8)
            else:
                raw = part.reshape(-1).view(torch.uint8).numpy()
            total += int(raw[::PAGE_NBYTES].sum(dtype=np.int64))
    return total
