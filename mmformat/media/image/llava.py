"""LLaVA: CLIP's steps, after padding to a square where the configuration asks for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from mmformat.errors import MaterializeError
from mmformat.media.image.fixed_size import FixedSizeImageProcessor
from mmformat.media.image.normalization import Normalization
from mmformat.media.image.pixel_processor import PixelProcessor
from mmformat.media.image.plan import CodesLayout
from mmformat.media.image.resizing import MAX_RESIZED_PIXELS
from mmformat.media.image.settings import CLIP_MEAN, Settings

__all__ = ["LlavaImageProcessor"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LlavaImageProcessor(PixelProcessor):
    """Make an image of one size, as LLaVA 1.5 wants it: ``pixel_values`` (1, 3, height, width).

    Parameters
    ----------
    fixed : FixedSizeImageProcessor
        What follows the padding.
    background : (int, int, int), or None
        The color that an image is padded to a square with; None does not pad.

    References
    ----------
    transformers 5.23.0, ``LlavaImageProcessorPil``, bit for bit.

    Examples
    --------
    >>> processor = LlavaImageProcessor(background=(122, 116, 104))
    >>> processor(np.zeros((300, 400, 3), np.uint8)).feature.shape
    (1, 3, 224, 224)
    """

    fixed: FixedSizeImageProcessor = field(default_factory=FixedSizeImageProcessor)
    background: tuple[int, int, int] | None = None

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> LlavaImageProcessor:
        """Return the processor of a ``preprocessor_config.json``'s values.

        Raises
        ------
        MaterializeError
            When a value has no meaning.
        """
        settings = Settings(values)
        background = None
        if settings.flag("do_pad", False):
            mean = settings.numbers("image_mean", CLIP_MEAN)
            if not isinstance(mean, tuple) or len(mean) != 3:
                raise MaterializeError(f"expected 3 means, got {mean}", path="$.image_mean")
            background = (int(mean[0] * 255), int(mean[1] * 255), int(mean[2] * 255))
        return cls(fixed=FixedSizeImageProcessor.clip(values), background=background)

    @property
    def normalization(self) -> Normalization:
        """From bytes to floats."""
        return self.fixed.normalization

    @property
    def do_convert_rgb(self) -> bool:
        """Whether every mode is brought to RGB first."""
        return self.fixed.do_convert_rgb

    def layout(self, height: int, width: int, *, channels: int) -> CodesLayout:
        """Return (1, channels, height, width)."""
        if self.background is not None:
            height = width = max(height, width)
        return self.fixed.layout(height, width, channels=channels)

    def write(self, pixels: Image.Image, codes: npt.NDArray[np.uint8]) -> None:
        """Write the one image, padded to a square first."""
        if self.background is not None:
            pixels = _pad_to_square(pixels, self.background)
        self.fixed.write(pixels, codes)


def _pad_to_square(pixels: Image.Image, color: tuple[int, int, int]) -> Image.Image:
    width, height = pixels.size
    if width == height:
        return pixels
    edge = max(width, height)
    if edge * edge > MAX_RESIZED_PIXELS:
        raise MaterializeError(
            f"expected a square of at most {MAX_RESIZED_PIXELS:,} pixels, got {edge} x {edge}",
            path="$.do_pad",
        )
    if pixels.mode != "RGB":
        raise MaterializeError(f"expected RGB to pad, got {pixels.mode}", path="$.do_convert_rgb")
    square = Image.new("RGB", (edge, edge), color)
    square.paste(pixels, ((edge - width) // 2, (edge - height) // 2))
    return square
