"""InternVL, GOT-OCR 2: tiles in the grid nearest to the aspect ratio, and a thumbnail."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from mmformat.errors import MaterializeError
from mmformat.media.image.cropping import channel_codes
from mmformat.media.image.normalization import Normalization
from mmformat.media.image.pixels import to_rgb
from mmformat.media.image.processed import Encoding, FloatDtype, ImageLike, ProcessedImage
from mmformat.media.image.resizing import output_size, resize
from mmformat.media.image.settings import CLIP_MEAN, CLIP_STD, Settings

__all__ = ["TilesImageProcessor", "tile_grid"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TilesImageProcessor:
    """Cut an image into tiles of one size, as InternVL and GOT-OCR 2 want it.

    Parameters
    ----------
    size : mapping
        ``height`` and ``width`` of a tile, and of the whole image when it is not cut.
    crop_to_patches : bool
        Whether to cut; InternVL's processor says yes, its image processor's default is no.
    min_patches, max_patches : int
        Bounds on the tiles, the thumbnail not counted.
    normalization : Normalization
        From bytes to floats.
    resample : int
        A ``PIL.Image.Resampling``.
    do_resize, do_convert_rgb : bool
        Steps that can be left out; cutting resizes always.

    References
    ----------
    transformers 5.23.0, ``GotOcr2ImageProcessorPil``, bit for bit.

    Examples
    --------
    >>> processor = TilesImageProcessor(crop_to_patches=True)
    >>> processed = processor(np.zeros((300, 600, 3), np.uint8))
    >>> processed.feature.shape, processed.model_specific_data["num_patches"].tolist()
    ((3, 3, 384, 384), [3])
    """

    size: Mapping[str, int] = field(default_factory=lambda: {"height": 384, "width": 384})
    crop_to_patches: bool = False
    min_patches: int = 1
    max_patches: int = 12
    normalization: Normalization = field(
        default_factory=lambda: Normalization(mean=CLIP_MEAN, std=CLIP_STD)
    )
    resample: int = Image.Resampling.BICUBIC
    do_resize: bool = True
    do_convert_rgb: bool = True

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> TilesImageProcessor:
        """Return the processor of a ``preprocessor_config.json``'s values.

        Raises
        ------
        MaterializeError
            When a value has no meaning.
        """
        settings = Settings(values)
        return cls(
            size=settings.size("size", {"height": 384, "width": 384}),
            crop_to_patches=settings.flag("crop_to_patches", False),
            min_patches=settings.integer("min_patches", 1),
            max_patches=settings.integer("max_patches", 12),
            normalization=settings.normalization(mean=CLIP_MEAN, std=CLIP_STD),
            resample=settings.resample(Image.Resampling.BICUBIC),
            do_resize=settings.flag("do_resize", True),
            do_convert_rgb=settings.flag("do_convert_rgb", True),
        )

    def __call__(
        self,
        image: ImageLike,
        *,
        encoding: Encoding | None = None,
        dtype: FloatDtype | None = None,
    ) -> ProcessedImage:
        """Return ``pixel_values`` (tiles, channels, height, width) and ``num_patches`` (1,).

        Raises
        ------
        MaterializeError
            When the image cannot be read or resized.
        """
        pixels = to_rgb(image, convert=self.do_convert_rgb)
        if self.crop_to_patches and self.max_patches > 1:
            tiles = self._tiles(pixels)
        elif self.do_resize:
            height, width = output_size(pixels.height, pixels.width, size=self.size)
            tiles = [resize(pixels, height, width, resample=self.resample)]
        else:
            tiles = [pixels]
        codes = np.stack([channel_codes(tile) for tile in tiles])
        return ProcessedImage(
            self.normalization.feature(codes, axis=1, encoding=encoding, dtype=dtype),
            {"num_patches": np.array([len(tiles)], dtype=np.int64)},
        )

    def _tiles(self, pixels: Image.Image) -> list[Image.Image]:
        if "height" not in self.size or "width" not in self.size:
            raise MaterializeError(f"expected height and width, got {self.size}", path="$.size")
        height, width = self.size["height"], self.size["width"]
        columns, rows = tile_grid(
            (pixels.height, pixels.width),
            (height, width),
            min_patches=self.min_patches,
            max_patches=self.max_patches,
        )
        whole = resize(pixels, height * rows, width * columns, resample=self.resample)
        tiles = [
            whole.crop((left, top, left + width, top + height))
            for top in range(0, height * rows, height)
            for left in range(0, width * columns, width)
        ]
        if len(tiles) > 1:
            tiles.append(resize(pixels, height, width, resample=self.resample))
        return tiles


def tile_grid(
    image_size: tuple[int, int], tile_size: tuple[int, int], *, min_patches: int, max_patches: int
) -> tuple[int, int]:
    """Return the columns and rows of the grid whose aspect ratio is nearest to the image's.

    Parameters
    ----------
    image_size, tile_size : (int, int)
        Height and width.

    References
    ----------
    transformers 5.23.0, ``models.got_ocr2``, ``get_optimal_tiled_canvas``: of two grids that are
    equally near, the later one wins while its tiles cover at most twice the image's pixels.

    Examples
    --------
    >>> tile_grid((300, 600), (384, 384), min_patches=1, max_patches=12)
    (2, 1)
    """
    height, width = image_size
    ratio = width / height
    grids = sorted(
        (
            (columns, rows)
            for columns in range(1, max_patches + 1)
            for rows in range(1, max_patches + 1)
            if min_patches <= columns * rows <= max_patches
        ),
        key=math.prod,
    )
    best, nearest = (1, 1), math.inf
    for columns, rows in grids:
        distance = abs(ratio - columns / rows)
        if distance < nearest:
            best, nearest = (columns, rows), distance
        elif distance == nearest:
            covered = 0.5 * tile_size[0] * tile_size[1] * columns * rows
            if width * height > covered:
                best = (columns, rows)
    return best
