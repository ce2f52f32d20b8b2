"""The families of Qwen2-VL and GLM-4V: smart resizing, and patches with each still repeated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Self

import numpy as np
import numpy.typing as npt

from mmformat.errors import MaterializeError
from mmformat.media.image.normalization import CLIP_MEAN, CLIP_STD, Settings
from mmformat.media.image.pixels import Pixels, check_size, smart_resize, smart_resize_video
from mmformat.media.image.processor import CodesLayout, PixelProcessor

__all__ = ["GlmVImageProcessor", "QwenVLImageProcessor"]

STRIP: Final = 98_304
"""Pixels cut at once: on 4K, whole planes take twice the time (46 ms against 22)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QwenVLImageProcessor(PixelProcessor):
    """Cut an image into the patches of Qwen2-VL, Qwen2.5-VL and Qwen3-VL.

    ``pixel_values`` are (patches, values), and ``image_grid_thw`` int64 (1, 3).

    Parameters
    ----------
    min_pixels, max_pixels : int
        Bounds on the pixels after resizing.
    patch_size : int
        Edge of a patch, in pixels.
    temporal_patch_size : int
        How often a still is repeated along time.
    merge_size : int
        How many patches along each edge the model merges into one token.
    do_resize : bool
        Whether to resize.
    normalization, resample, do_convert_rgb, backend, sixteen_bit
        As for :class:`PixelProcessor`.

    References
    ----------
    transformers 5.23.0, ``Qwen2VLImageProcessor`` and ``Qwen2VLImageProcessorPil``, bit for bit.

    Examples
    --------
    >>> processor = QwenVLImageProcessor(max_pixels=64 * 64)
    >>> processed = processor(np.zeros((300, 400, 3), np.uint8))
    >>> processed.feature.shape, processed.model_specific_data["image_grid_thw"].tolist()
    ((8, 1176), [[1, 2, 4]])
    """

    _pixels: ClassVar[tuple[int, int]] = (56 * 56, 28 * 28 * 1280)

    min_pixels: int = 56 * 56
    max_pixels: int = 28 * 28 * 1280
    patch_size: int = 14
    temporal_patch_size: int = 2
    merge_size: int = 2
    do_resize: bool = True

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> Self:
        """Return the processor of a ``preprocessor_config.json``'s values.

        Raises
        ------
        MaterializeError
            When a value is invalid.
        """
        settings = Settings(values)
        size = settings.mapping("size")
        least, most = cls._pixels
        return cls(
            min_pixels=settings.integer(
                "min_pixels", size.get("shortest_edge", size.get("min_pixels", least))
            ),
            max_pixels=settings.integer(
                "max_pixels", size.get("longest_edge", size.get("max_pixels", most))
            ),
            patch_size=settings.integer("patch_size", 14),
            temporal_patch_size=settings.integer("temporal_patch_size", 2),
            merge_size=settings.integer("merge_size", 2),
            do_resize=settings.flag("do_resize", True),
            **settings.pixels(mean=CLIP_MEAN, std=CLIP_STD),
        )

    def layout(self, height: int, width: int, *, channels: int) -> CodesLayout:
        """Return (patches, channels, patch_size, patch_size) and ``image_grid_thw`` (1, 3)."""
        factor = self.patch_size * self.merge_size
        if self.do_resize:
            of = height, width
            height, width = self._resized(height, width)
            check_size(height, width, of=of)
        elif height % factor or width % factor:
            raise MaterializeError(
                f"expected edges that are multiples of {factor}, got {height} x {width}",
                path="$.do_resize",
            )
        rows, columns = height // self.patch_size, width // self.patch_size
        values = channels * self.temporal_patch_size * self.patch_size**2
        return CodesLayout(
            codes=(rows * columns, channels, self.patch_size, self.patch_size),
            axis=1,
            repeat_axis=2,
            repeat=self.temporal_patch_size,
            shape=(rows * columns, values),
            always_float=self.backend == "pil",
            model_specific_data={"image_grid_thw": np.array([[1, rows, columns]], dtype=np.int64)},
        )

    def write(self, pixels: Pixels, codes: npt.NDArray[np.uint8]) -> None:
        """Resize, and write the patches one after another."""
        if self.do_resize:
            height, width = self._resized(pixels.height, pixels.width)
            pixels = pixels.resize(height, width, resample=self.resample)
        merge, patch = self.merge_size, self.patch_size
        rows, columns = pixels.height // patch // merge, pixels.width // patch // merge
        shape = (rows, columns, merge, merge, codes.shape[1], patch, patch)
        pixels.write_patches(codes.reshape(shape), merge_size=merge, strip=STRIP)

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        return smart_resize(
            height,
            width,
            factor=self.patch_size * self.merge_size,
            min_pixels=self.min_pixels,
            max_pixels=self.max_pixels,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class GlmVImageProcessor(QwenVLImageProcessor):
    """Cut an image into the patches of GLM-4.1V and GLM-4.6V.

    ``pixel_values`` are (patches, values), and ``image_grid_thw`` int64 (1, 3).

    Parameters
    ----------
    min_pixels, max_pixels : int
        Bounds on the pixels after resizing, of a still and its repetitions together.
    patch_size, temporal_patch_size, merge_size, do_resize
        As for :class:`QwenVLImageProcessor`.
    normalization, resample, do_convert_rgb, backend, sixteen_bit
        As for :class:`PixelProcessor`.

    References
    ----------
    transformers 5.23.0, ``Glm4vImageProcessor``, ``Glm46VImageProcessor`` and their ``Pil``
    classes, bit for bit.

    Examples
    --------
    >>> processed = GlmVImageProcessor()(np.zeros((300, 400, 3), np.uint8))
    >>> processed.model_specific_data["image_grid_thw"].tolist()
    [[1, 22, 28]]
    """

    _pixels: ClassVar[tuple[int, int]] = (112 * 112, 28 * 28 * 15000)

    min_pixels: int = 112 * 112
    max_pixels: int = 28 * 28 * 15000

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        return smart_resize_video(
            self.temporal_patch_size,
            height,
            width,
            temporal_factor=self.temporal_patch_size,
            factor=self.patch_size * self.merge_size,
            min_pixels=self.min_pixels,
            max_pixels=self.max_pixels,
        )
