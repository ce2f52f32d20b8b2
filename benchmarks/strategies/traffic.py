"""Requests as they reach a server: photographs as base64 JPEG, of the sizes that engines see."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final, Literal

from PIL import Image

import mmformat as mm
from benchmarks.payloads import PHOTOS
from mmformat.media import materialize
from mmformat.media.image import QwenVLImageProcessor

__all__ = [
    "PAYLOADS",
    "Payload",
    "feature_nbytes",
    "lazy",
    "materialized",
    "processor_of",
    "requests_of",
]

Payload = Literal["image", "video", "mixed"]
PAYLOADS: Final[tuple[Payload, ...]] = ("image", "video", "mixed")

IMAGE_SIDE: Final = 1036
"""74 patches of 14 pixels along each edge: 25.8 MB of float32, (5476, 1176)."""

VIDEO_FRAMES: Final = 8
"""Stills of a clip: 206 MB of float32."""

_DICTIONARY: Final = QwenVLImageProcessor(max_pixels=2**24)
_PLAIN: Final = replace(
    _DICTIONARY, normalization=replace(_DICTIONARY.normalization, encoding="plain")
)
_MIXED_SIDES: Final = (280, 560, 1036)


def requests_of(payload: Payload, count: int) -> list[list[str]]:
    """Return ``count`` requests, each a list of base64 JPEG texts; no two images are the same."""
    photos = _photos()
    requests = []
    for number in range(count):
        sides: Sequence[int] = {
            "image": (IMAGE_SIDE,),
            "video": (IMAGE_SIDE,) * VIDEO_FRAMES,
            "mixed": _MIXED_SIDES[: 1 + number % len(_MIXED_SIDES)],
        }[payload]
        images = []
        for position, side in enumerate(sides):
            serial = number * VIDEO_FRAMES + position
            photo = photos[(number + position) % len(photos)]
            images.append(_variant(photo, side, serial))
        requests.append(images)
    return requests


def _photos() -> list[Image.Image]:
    return [Image.open(path).convert("RGB") for _, path in sorted(PHOTOS.items())]


def _variant(photo: Image.Image, side: int, serial: int) -> str:
    # Another crop for every serial number: content that repeats would be found in the arena.
    left, upper = serial % 16, serial // 16
    box = (left, upper, photo.width - 16 + left, photo.height - 64 + upper % 64)
    file = io.BytesIO()
    photo.resize((side, side), Image.Resampling.BICUBIC, box=box).save(file, "JPEG", quality=90)
    return base64.b64encode(file.getvalue()).decode()


def feature_nbytes(inputs: mm.MultimodalInputs) -> int:
    """Return the bytes of all features as they are stored."""
    features: list[Any] = [item.feature for item in inputs.items]
    return sum([int(feature.nbytes) for feature in features])


def lazy(images: Sequence[str]) -> mm.MultimodalInputs:
    """Return a request whose images are not decoded yet."""
    return mm.MultimodalInputs(
        items=[
            mm.MultimodalDataItem(
                modality=mm.Modality.IMAGE, feature=mm.Source(text, kind="base64")
            )
            for text in images
        ],
        request_data={"im_token_id": 151655},
    )


def materialized(images: Sequence[str], *, dictionary: bool = False) -> mm.MultimodalInputs:
    """Decode, resize and normalize a request's images, as every way does it.

    Only what is written differs: floats, or the codes and tables that they come from.
    """
    return materialize(lazy(images), processor_of(dictionary=dictionary))


def processor_of(*, dictionary: bool) -> QwenVLImageProcessor:
    """Return the processor of every way, to write codes and tables or floats."""
    return _DICTIONARY if dictionary else _PLAIN
