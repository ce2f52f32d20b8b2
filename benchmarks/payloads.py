"""The payloads of the wheel, and a photograph's patches, plain or as codes and a table."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
from PIL import Image, ImageOps

import mmformat.bench.payloads
from mmformat.bench.payloads import PATCH_VALUES, Payload, image_item
from mmformat.media.image import QwenVLImageProcessor
from mmformat.model import DictionaryTensor, Modality, MultimodalInputs

__all__ = ["PAYLOADS", "PHOTOS", "payload"]

PHOTOS: Final = {
    path.name: path for path in (Path(__file__).parent / "photos").iterdir() if path.suffix != ".md"
}
"""The photographs that the benchmarks use, by file name."""


def _photograph(seed: int, *, plain: bool) -> MultimodalInputs:
    with Image.open(PHOTOS["retina-1411.jpg"]) as opened:
        image = opened.convert("RGB").resize((1036, 1036), Image.Resampling.LANCZOS)
    image = ImageOps.mirror(image) if seed % 2 else image
    processor = QwenVLImageProcessor(max_pixels=1036 * 1036)
    feature: Any = processor(image, encoding="dictionary", dtype="float32").feature
    feature = DictionaryTensor(
        torch.from_numpy(feature.codes),
        torch.as_tensor(feature.table),
        axis=feature.axis,
        repeat_axis=feature.repeat_axis,
        repeat=feature.repeat,
        shape=feature.shape,
    )
    item = image_item(feature.expand() if plain else feature, (1, 74, 74), Modality.IMAGE)
    return MultimodalInputs(items=[item], request_data={"im_token_id": 151655})


_PHOTO: Final = Payload(
    name="photo",
    title="photograph, f32 (5476, 1176), 25.8 MB",
    nbytes=5476 * PATCH_VALUES * 4,
    make=partial(_photograph, plain=True),
    dictionary=partial(_photograph, plain=False),
)
_BUILT_IN: Final = mmformat.bench.payloads.PAYLOADS

PAYLOADS: Final = {
    **{name: _BUILT_IN[name] for name in ("image-small", "image")},
    _PHOTO.name: _PHOTO,
    **{name: _BUILT_IN[name] for name in ("images-8", "video")},
}


def payload(name: str) -> Payload:
    """Return the payload of a name; see :func:`mmformat.bench.payloads.payload`."""
    return _PHOTO if name == _PHOTO.name else mmformat.bench.payloads.payload(name)
