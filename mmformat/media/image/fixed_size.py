"""The CLIP family (CLIP, SigLIP, LLaVA, Pixtral): resize, crop the center, normalize."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from mmformat.errors import MaterializeError
from mmformat.media.image.normalization import (
    CLIP_MEAN,
    CLIP_STD,
    STANDARD_MEAN,
    STANDARD_STD,
    Settings,
)
from mmformat.media.image.pixels import MAX_RESIZED_PIXELS, Pixels, check_size, output_size
from mmformat.media.image.processor import CodesLayout, PixelProcessor

__all__ = ["FixedSizeImageProcessor", "LlavaImageProcessor", "PixtralImageProcessor"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedSizeImageProcessor(PixelProcessor):
    """Produce images of a fixed size, for CLIP and SigLIP: ``pixel_values`` (1, 3, h, w).

    Parameters
    ----------
    size : mapping, or None
        What to resize to, as in a ``preprocessor_config.json``; None does not resize.
    crop_size : (int, int), or None
        Height and width of the center that is kept; None keeps all.
    normalization, resample, do_convert_rgb, backend, sixteen_bit
        As for :class:`PixelProcessor`.

    References
    ----------
    transformers 5.23.0, ``CLIPImageProcessor``, ``SiglipImageProcessor``, and their ``Pil``
    classes, bit for bit.

    Examples
    --------
    >>> processed = FixedSizeImageProcessor()(np.zeros((300, 400, 3), np.uint8))
    >>> processed.feature
    DictionaryTensor(dtype=float32, shape=(1, 3, 224, 224), codes=(1, 3, 224, 224), entries=256, \
repeat=1, ratio=3.92)
    """

    size: Mapping[str, int] | None = field(default_factory=lambda: {"shortest_edge": 224})
    crop_size: tuple[int, int] | None = (224, 224)

    @classmethod
    def clip(cls, values: Mapping[str, Any], **fields: Any) -> Self:
        """Return the processor of a CLIP configuration.

        Parameters
        ----------
        values : mapping
            As parsed from JSON.
        **fields
            Of the class, in addition.

        Raises
        ------
        MaterializeError
            When a value is invalid.
        """
        settings = Settings(values)
        size = settings.size("size", {"shortest_edge": 224}, default_to_square=False)
        if values.get("use_square_size"):
            size = {"height": 224, "width": 224}  # as transformers does, for KOSMOS-2
        crop = settings.size("crop_size", {"height": 224, "width": 224})
        return cls(
            size=size if settings.flag("do_resize", True) else None,
            crop_size=_height_width(crop) if settings.flag("do_center_crop", True) else None,
            **settings.pixels(mean=CLIP_MEAN, std=CLIP_STD),
            **fields,
        )

    @classmethod
    def siglip(cls, values: Mapping[str, Any]) -> Self:
        """Return the processor of a SigLIP configuration.

        Raises
        ------
        MaterializeError
            When a value is invalid.
        """
        settings = Settings(values)
        size = settings.size("size", {"height": 224, "width": 224}, default_to_square=False)
        crop = None
        if settings.flag("do_center_crop", False):
            crop = _height_width(settings.size("crop_size", {}))
        return cls(
            size=size if settings.flag("do_resize", True) else None,
            crop_size=crop,
            **settings.pixels(mean=STANDARD_MEAN, std=STANDARD_STD),
        )

    def extent(self, height: int, width: int) -> tuple[int, int]:
        """Return the output height and width for an image of this size.

        Raises
        ------
        MaterializeError
            When it cannot be resized.
        """
        if self.size is not None:
            of = height, width
            height, width = output_size(height, width, size=self.size)
            check_size(height, width, of=of)
        return self.crop_size or (height, width)

    def layout(self, height: int, width: int, *, channels: int) -> CodesLayout:
        """Return (1, channels, height, width)."""
        return CodesLayout(codes=(1, channels, *self.extent(height, width)), axis=1)

    def write(self, pixels: Pixels, codes: npt.NDArray[np.uint8]) -> None:
        """Write the one image."""
        self.write_one(pixels, codes[0])

    def write_one(self, pixels: Pixels, codes: npt.NDArray[np.uint8]) -> None:
        """Resize and crop an image into codes (channels, height, width).

        Raises
        ------
        MaterializeError
            When the image cannot be read or resized.
        """
        if self.size is not None:
            height, width = output_size(pixels.height, pixels.width, size=self.size)
            pixels = pixels.resize(height, width, resample=self.resample)
        if self.crop_size is not None:
            pixels = pixels.center_crop(*self.crop_size)
        pixels.write(codes)


def _height_width(size: Mapping[str, int]) -> tuple[int, int]:
    if "height" not in size or "width" not in size:
        raise MaterializeError(f"expected height and width, got {dict(size)}", path="$.crop_size")
    return size["height"], size["width"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LlavaImageProcessor(FixedSizeImageProcessor):
    """Produce images of a fixed size, for LLaVA 1.5: ``pixel_values`` (1, 3, height, width).

    Parameters
    ----------
    background : (int, int, int), or None
        The color that an image is padded to a square with; None does not pad.
    size, crop_size
        As for :class:`FixedSizeImageProcessor`.
    normalization, resample, do_convert_rgb, backend, sixteen_bit
        As for :class:`PixelProcessor`.

    References
    ----------
    transformers 5.23.0, ``LlavaImageProcessor`` and ``LlavaImageProcessorPil``, bit for bit.

    Examples
    --------
    >>> processor = LlavaImageProcessor(background=(122, 116, 104))
    >>> processor(np.zeros((300, 400, 3), np.uint8)).feature.shape
    (1, 3, 224, 224)
    """

    background: tuple[int, int, int] | None = None

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> Self:
        """Return the processor of a ``preprocessor_config.json``'s values.

        Raises
        ------
        MaterializeError
            When a value is invalid.
        """
        settings = Settings(values)
        background = None
        if settings.flag("do_pad", False):
            mean = settings.numbers("image_mean", CLIP_MEAN)
            if not isinstance(mean, tuple) or len(mean) != 3:
                raise MaterializeError(f"expected 3 means, got {mean}", path="$.image_mean")
            background = (int(mean[0] * 255), int(mean[1] * 255), int(mean[2] * 255))
        return cls.clip(values, background=background)

    def extent(self, height: int, width: int) -> tuple[int, int]:
        """Return the output height and width for an image of this size.

        Raises
        ------
        MaterializeError
            When it cannot be resized.
        """
        if self.background is not None:
            height = width = max(height, width)
        return FixedSizeImageProcessor.extent(self, height, width)

    def write_one(self, pixels: Pixels, codes: npt.NDArray[np.uint8]) -> None:
        """Pad, resize and crop an image into codes (channels, height, width).

        Raises
        ------
        MaterializeError
            When the image cannot be read, padded or resized.
        """
        if self.background is not None:
            pixels = _pad_to_square(pixels, self.background)
        FixedSizeImageProcessor.write_one(self, pixels, codes)


def _pad_to_square(pixels: Pixels, color: tuple[int, int, int]) -> Pixels:
    height, width = pixels.height, pixels.width
    if width == height:
        return pixels
    edge = max(width, height)
    if edge * edge > MAX_RESIZED_PIXELS:
        raise MaterializeError(
            f"a padded square may have at most {MAX_RESIZED_PIXELS:,} pixels, not {edge} x {edge}",
            path="$.do_pad",
        )
    if pixels.channels != 3:
        raise MaterializeError(
            f"only images of 3 channels can be padded, got {pixels.channels}",
            path="$.do_convert_rgb",
        )
    return pixels.pad((edge - height) // 2, (edge - width) // 2, edge, edge, color=color)


@dataclass(frozen=True, slots=True, kw_only=True)
class PixtralImageProcessor(PixelProcessor):
    """Resize an image to whole patches, for Pixtral and Mistral 3.

    ``pixel_values`` are (1, channels, height, width), and ``image_sizes`` int64 (1, 2).

    Parameters
    ----------
    max_size : (int, int)
        The largest height and width; a smaller image is not enlarged beyond whole patches.
    patch_size : (int, int)
        Height and width of a patch.
    do_resize : bool
        Whether to resize.
    normalization, resample, do_convert_rgb, backend, sixteen_bit
        As for :class:`PixelProcessor`.

    References
    ----------
    transformers 5.23.0, ``PixtralImageProcessor`` and ``PixtralImageProcessorPil``, bit for bit.

    Examples
    --------
    >>> processed = PixtralImageProcessor()(np.zeros((300, 400, 3), np.uint8))
    >>> processed.feature.shape, processed.model_specific_data["image_sizes"].tolist()
    ((1, 3, 304, 400), [[304, 400]])
    """

    max_size: tuple[int, int] = (1024, 1024)
    patch_size: tuple[int, int] = (16, 16)
    do_resize: bool = True

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> Self:
        """Return the processor of a ``preprocessor_config.json``'s values.

        Raises
        ------
        MaterializeError
            When a value is invalid, or asks for a center crop, which is not done.
        """
        settings = Settings(values)
        if settings.flag("do_center_crop", False):
            raise MaterializeError("do_center_crop is not supported", path="$.do_center_crop")
        size = settings.size("size", {"longest_edge": 1024})
        longest = size.get("longest_edge")
        return cls(
            max_size=(longest, longest) if longest else _height_width(size),
            patch_size=_height_width(settings.size("patch_size", {"height": 16, "width": 16})),
            do_resize=settings.flag("do_resize", True),
            **settings.pixels(mean=CLIP_MEAN, std=CLIP_STD),
        )

    def layout(self, height: int, width: int, *, channels: int) -> CodesLayout:
        """Return (1, channels, height, width) and ``image_sizes`` (1, 2)."""
        if self.do_resize:
            of = height, width
            height, width = self._resized(height, width)
            check_size(height, width, of=of)
        return CodesLayout(
            codes=(1, channels, height, width),
            axis=1,
            model_specific_data={"image_sizes": np.array([[height, width]], dtype=np.int64)},
        )

    def write(self, pixels: Pixels, codes: npt.NDArray[np.uint8]) -> None:
        """Write the resized image."""
        pixels.resize(*codes.shape[2:], resample=self.resample).write(codes[0])

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        ratio = max(height / self.max_size[0], width / self.max_size[1])
        if ratio > 1:
            height, width = math.floor(height / ratio), math.floor(width / ratio)
        rows, columns = self.patch_size
        return ((height - 1) // rows + 1) * rows, ((width - 1) // columns + 1) * columns
