"""Requests that tests put, send and materialize."""

from __future__ import annotations

from typing import Any

import numpy as np

from mmformat.model import Modality, MultimodalDataItem, MultimodalInputs

__all__ = ["random_request", "request_of"]


def request_of(
    *features: Any,
    modality: Modality | str = Modality.IMAGE,
    request_data: dict[str, Any] | None = None,
    **fields: Any,
) -> MultimodalInputs:
    """Return a request with an item for each feature; further fields go to every item."""
    items = [
        MultimodalDataItem(modality=modality, feature=each, **fields)  # type: ignore[arg-type]
        for each in features
    ]
    return MultimodalInputs(items=items, request_data=request_data or {})


def random_request(nbytes: int, seed: int = 0, **fields: Any) -> MultimodalInputs:
    """Return a request of one image of random bytes."""
    feature = np.random.default_rng(seed).integers(0, 256, nbytes, np.uint8)
    return request_of(feature, **fields)
