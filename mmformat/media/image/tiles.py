"""InternVL, GOT-OCR 2: tiles in the grid nearest to the aspect ratio, and a thumbnail."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from mmformat.errors import MaterializeError
from mmformat.media.image.cropping import write_channels
from mmformat.media.image.normalization import Normalization
from mmformat.media.image.pixel_processor import PixelProcessor
from mmformat.media.image.plan import CodesLayout
from mmformat.media.image.resizing import check_size, output_size, resize
from mmformat.media.image.settings import CLIP_MEAN, CLIP_STD, Settings

__all__ = ["TilesImageProcessor", "tile_grid"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TilesImageProcessor(PixelProcessor):
    """Cut an image into tiles of one size, as InternVL and GOT-OCR 2 want it.

    ``pixel_values`` are (tiles, channels, height, width), and ``num_patches`` int64 (1,).

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
            do_resize=settings.flag("do_resize", True),
            **settings.pixels(mean=CLIP_MEAN, std=CLIP_STD),
        )

    def layout(self, height: int, width: int, *, channels: int) -> CodesLayout:
        """Return (tiles, channels, height, width) and ``num_patches`` (1,)."""
        count = 1
        if self._cuts:
            columns, rows = self._grid(height, width)
            count = columns * rows + (columns * rows > 1)  # the thumbnail
            tile = self._tile_size()
            check_size(tile[0] * rows, tile[1] * columns, of=(height, width))
            height, width = tile
        elif self.do_resize:
            of = height, width
            height, width = output_size(height, width, size=self.size)
            check_size(height, width, of=of)
        return CodesLayout(
            codes=(count, channels, height, width),
            axis=1,
            model_specific_data={"num_patches": np.array([count], dtype=np.int64)},
        )

    def write(self, pixels: Image.Image, codes: npt.NDArray[np.uint8]) -> None:
        """Write the tiles row by row, and the thumbnail last."""
        height, width = codes.shape[2:]
        if not self._cuts:
            if self.do_resize:
                pixels = resize(pixels, height, width, resample=self.resample)
            write_channels(pixels, codes[0])
            return
        columns, rows = self._grid(pixels.height, pixels.width)
        whole = resize(pixels, height * rows, width * columns, resample=self.resample)
        for number in range(rows * columns):
            top, left = number // columns * height, number % columns * width
            write_channels(whole.crop((left, top, left + width, top + height)), codes[number])
        if rows * columns > 1:
            thumbnail = resize(pixels, height, width, resample=self.resample)
            write_channels(thumbnail, codes[rows * columns])

    @property
    def _cuts(self) -> bool:
        return self.crop_to_patches and self.max_patches > 1

    def _tile_size(self) -> tuple[int, int]:
        if "height" not in self.size or "width" not in self.size:
            raise MaterializeError(f"expected height and width, got {self.size}", path="$.size")
        return self.size["height"], self.size["width"]

    def _grid(self, height: int, width: int) -> tuple[int, int]:
        return tile_grid(
            (height, width),
            self._tile_size(),
            min_patches=self.min_patches,
            max_patches=self.max_patches,
        )


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
