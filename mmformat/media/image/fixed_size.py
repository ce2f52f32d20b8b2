"""The CLIP family: resize, crop the center, normalize, channels first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from mmformat.errors import MaterializeError
from mmformat.media.image.cropping import center_crop, channel_codes
from mmformat.media.image.normalization import Normalization
from mmformat.media.image.pixels import to_rgb
from mmformat.media.image.processed import Encoding, FloatDtype, ImageLike, ProcessedImage
from mmformat.media.image.resizing import output_size, resize
from mmformat.media.image.settings import (
    CLIP_MEAN,
    CLIP_STD,
    STANDARD_MEAN,
    STANDARD_STD,
    Settings,
)

__all__ = ["FixedSizeImageProcessor"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedSizeImageProcessor:
    """Make an image of one size, as CLIP and SigLIP want it.

    Parameters
    ----------
    size : mapping, or None
        What to resize to, as in a ``preprocessor_config.json``; None does not resize.
    crop_size : (int, int), or None
        Height and width of the center that is kept; None keeps all.
    normalization : Normalization
        From bytes to floats.
    resample : int
        A ``PIL.Image.Resampling``.
    do_convert_rgb : bool
        Bring every mode to RGB first.

    References
    ----------
    transformers 5.23.0, ``CLIPImageProcessorPil`` and ``SiglipImageProcessorPil``, bit for bit.

    Examples
    --------
    >>> processed = FixedSizeImageProcessor()(np.zeros((300, 400, 3), np.uint8))
    >>> processed.feature
    DictionaryTensor(dtype=float32, shape=(1, 3, 224, 224), codes=(1, 3, 224, 224), entries=256, \
repeat=1, ratio=3.92)
    """

    size: Mapping[str, int] | None = field(default_factory=lambda: {"shortest_edge": 224})
    crop_size: tuple[int, int] | None = (224, 224)
    normalization: Normalization = field(
        default_factory=lambda: Normalization(mean=CLIP_MEAN, std=CLIP_STD)
    )
    resample: int = Image.Resampling.BICUBIC
    do_convert_rgb: bool = True

    @classmethod
    def clip(cls, values: Mapping[str, Any]) -> FixedSizeImageProcessor:
        """Return the processor of a CLIP configuration.

        Raises
        ------
        MaterializeError
            When a value has no meaning.
        """
        settings = Settings(values)
        size = settings.size("size", {"shortest_edge": 224}, default_to_square=False)
        if values.get("use_square_size"):
            size = {"height": 224, "width": 224}  # as transformers does, for KOSMOS-2
        crop = settings.size("crop_size", {"height": 224, "width": 224})
        return cls(
            size=size if settings.flag("do_resize", True) else None,
            crop_size=_height_width(crop) if settings.flag("do_center_crop", True) else None,
            normalization=settings.normalization(mean=CLIP_MEAN, std=CLIP_STD),
            resample=settings.resample(Image.Resampling.BICUBIC),
            do_convert_rgb=settings.flag("do_convert_rgb", True),
        )

    @classmethod
    def siglip(cls, values: Mapping[str, Any]) -> FixedSizeImageProcessor:
        """Return the processor of a SigLIP configuration.

        Raises
        ------
        MaterializeError
            When a value has no meaning.
        """
        settings = Settings(values)
        size = settings.size("size", {"height": 224, "width": 224}, default_to_square=False)
        crop = None
        if settings.flag("do_center_crop", False):
            crop = _height_width(settings.size("crop_size", {}))
        return cls(
            size=size if settings.flag("do_resize", True) else None,
            crop_size=crop,
            normalization=settings.normalization(mean=STANDARD_MEAN, std=STANDARD_STD),
            resample=settings.resample(Image.Resampling.BICUBIC),
            do_convert_rgb=settings.flag("do_convert_rgb", True),
        )

    def codes(self, pixels: Image.Image) -> npt.NDArray[np.uint8]:
        """Return the bytes of an image in RGB, resized and cropped, (channels, height, width).

        Raises
        ------
        MaterializeError
            When the image cannot be read or resized.
        """
        if self.size is not None:
            height, width = output_size(pixels.height, pixels.width, size=self.size)
            pixels = resize(pixels, height, width, resample=self.resample)
        if self.crop_size is not None:
            return center_crop(pixels, *self.crop_size)
        return channel_codes(pixels)

    def __call__(
        self, image: ImageLike, *, encoding: Encoding | None = None, dtype: FloatDtype | None = None
    ) -> ProcessedImage:
        """Return ``pixel_values`` (1, channels, height, width).

        Raises
        ------
        MaterializeError
            When the image cannot be read or resized.
        """
        codes = self.codes(to_rgb(image, convert=self.do_convert_rgb))[None]
        return ProcessedImage(
            self.normalization.feature(codes, axis=1, encoding=encoding, dtype=dtype)
        )


def _height_width(size: Mapping[str, int]) -> tuple[int, int]:
    if "height" not in size or "width" not in size:
        raise MaterializeError(f"expected height and width, got {dict(size)}", path="$.crop_size")
    return size["height"], size["width"]
