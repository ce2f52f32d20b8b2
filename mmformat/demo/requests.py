"""The demo's requests: photographs as base64 JPEG and PNG, and the processors they are for."""

from __future__ import annotations

import base64
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal

from mmformat.media import materialize
from mmformat.media.image import FixedSizeImageProcessor, ProcessedImage, QwenVLImageProcessor
from mmformat.model import (
    DictionaryTensor,
    Modality,
    MultimodalDataItem,
    MultimodalInputs,
    Source,
)

__all__ = ["IMAGES_PER_REQUEST", "lazy_request", "materialized", "with_plain_features"]

PHOTOS: Final = Path(__file__).parent / "photos"
IMAGES_PER_REQUEST: Final = 3

# Large and small ones, JPEG and PNG, so that every request has some of each.
_FILES: Final = ("retina-1036.jpg", "astronaut-face-96.png", "coffee-480x320.jpg")
_PROCESSORS: Final = ("qwen2-vl float32", "clip bfloat16", "qwen2-vl bfloat16", "clip float32")


def lazy_request(number: int) -> MultimodalInputs:
    """Return a request as it comes in: images not yet decoded, each for one processor."""
    items = []
    for index in range(number * IMAGES_PER_REQUEST, (number + 1) * IMAGES_PER_REQUEST):
        again, which = divmod(index, len(_FILES))
        name = _FILES[which]
        items.append(
            MultimodalDataItem(
                modality=Modality.IMAGE,
                feature=Source(_base64(name), kind="base64"),
                model_specific_data={
                    "photo": name,
                    "processor": _PROCESSORS[(index + again) % len(_PROCESSORS)],
                },
            )
        )
    return MultimodalInputs(items=items, request_data={"request": number})


def materialized(
    request: MultimodalInputs, *, encoding: Literal["plain", "dictionary"]
) -> MultimodalInputs:
    """Decode and process every image; plain features become torch tensors, as engines have them."""
    import torch

    def process(image: Any, item: MultimodalDataItem) -> ProcessedImage:
        family, _, dtype = item.model_specific_data["processor"].partition(" ")
        processor: Any = _processor(family)
        made: ProcessedImage = processor(image, encoding=encoding, dtype=dtype)
        data = {name: torch.as_tensor(value) for name, value in made.model_specific_data.items()}
        feature: Any = made.feature
        if not isinstance(feature, DictionaryTensor):
            feature = torch.as_tensor(feature)
        return ProcessedImage(feature, data)

    return materialize(request, process)


def with_plain_features(inputs: MultimodalInputs) -> MultimodalInputs:
    """Return the same inputs with every dictionary expanded to a torch tensor: what others send."""
    import torch

    items = []
    for item in inputs.items:
        feature: Any = item.feature
        if isinstance(feature, DictionaryTensor):
            feature = torch.as_tensor(feature.expand())
        items.append(
            MultimodalDataItem(
                modality=item.modality,
                feature=feature,
                offsets=item.offsets,
                model_specific_data=item.model_specific_data,
                hash=item.hash,
                pad_value=item.pad_value,
                identity=item.identity,
            )
        )
    return MultimodalInputs(items=items, request_data=inputs.request_data)


@cache
def _base64(name: str) -> str:
    return base64.b64encode((PHOTOS / name).read_bytes()).decode("ascii")


@cache
def _processor(family: str) -> QwenVLImageProcessor | FixedSizeImageProcessor:
    return QwenVLImageProcessor() if family == "qwen2-vl" else FixedSizeImageProcessor()
