"""What the parts of vLLM's items are called in the model; old pickles convert to the same."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

__all__ = [
    "FIELDS",
    "IS_EMBED",
    "MM_HASH",
    "MODALITIES",
    "MODALITY",
    "PREFIX",
    "feature_of",
]

PREFIX: Final = "vllm."
"""Put before the name of a field that this adapter does not know."""

FIELDS: Final = "vllm_fields"
"""For each key of an item, how vLLM batches it: kind, slices, dim, batch_size, keep_on_cpu."""

MODALITY: Final = "vllm_modality"
"""A modality that the model has no member for."""

MODALITIES: Final = "vllm_modalities"
"""In ``request_data``: the modalities of MultiModalKwargsItems in order, empty ones too."""

IS_EMBED: Final = "is_embed"
MM_HASH: Final = "mm_hash"

_FEATURES: Final = (
    "pixel_values",
    "pixel_values_videos",
    "pixel_values_flat",
    "pixel_values_flat_video",
    "input_features",
    "input_audio_features",
    "audio_features",
)
_EMBEDDINGS: Final = ("image_embeds", "video_embeds", "audio_embeds")


def feature_of(keys: Iterable[str]) -> tuple[str | None, str | None]:
    """Return which key is the item's ``feature`` and which its ``precomputed_embeddings``.

    Examples
    --------
    >>> feature_of(["image_grid_thw", "pixel_values"])
    ('pixel_values', None)
    >>> feature_of(["image_embeds"])
    (None, 'image_embeds')
    """
    found = set(keys)
    feature = next((key for key in _FEATURES if key in found), None)
    if feature is not None:
        return feature, None
    return None, next((key for key in _EMBEDDINGS if key in found), None)
