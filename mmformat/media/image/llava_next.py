"""LLaVA-NeXT: a thumbnail and the tiles of the resolution that wastes least."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from mmformat.errors import MaterializeError
from mmformat.media.image.fixed_size import FixedSizeImageProcessor
from mmformat.media.image.normalization import Normalization
from mmformat.media.image.pixel_processor import PixelProcessor
from mmformat.media.image.plan import CodesLayout
from mmformat.media.image.resizing import resize
from mmformat.media.image.settings import Settings

__all__ = ["LlavaNextImageProcessor", "best_resolution"]

PINPOINTS: Final = ((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008))


@dataclass(frozen=True, slots=True, kw_only=True)
class LlavaNextImageProcessor(PixelProcessor):
    """Cut an image of any resolution into tiles, as LLaVA-NeXT wants it.

    ``pixel_values`` are (1, tiles, channels, height, width), the thumbnail first, and
    ``image_sizes`` int64 (1, 2).

    Parameters
    ----------
    fixed : FixedSizeImageProcessor
        What is done to each tile.
    pinpoints : tuple of (int, int)
        The heights and widths to choose from.
    thumbnail_size : (int, int)
        Height and width of the whole image that precedes its tiles.
    tile_size : int
        Edge of a tile before the steps of ``fixed``.

    References
    ----------
    transformers 5.23.0, ``LlavaNextImageProcessorPil``, bit for bit.

    Examples
    --------
    >>> processed = LlavaNextImageProcessor()(np.zeros((300, 400, 3), np.uint8))
    >>> processed.feature.shape, processed.model_specific_data["image_sizes"].tolist()
    ((1, 7, 3, 224, 224), [[300, 400]])
    """

    fixed: FixedSizeImageProcessor = field(default_factory=FixedSizeImageProcessor)
    pinpoints: tuple[tuple[int, int], ...] = PINPOINTS
    thumbnail_size: tuple[int, int] = (224, 224)
    tile_size: int = 224

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> LlavaNextImageProcessor:
        """Return the processor of a ``preprocessor_config.json``'s values.

        Raises
        ------
        MaterializeError
            When a value has no meaning.
        """
        settings = Settings(values)
        size = settings.size("size", {"shortest_edge": 224}, default_to_square=False)
        edge = size.get("shortest_edge", 0)
        thumbnail = (size.get("height") or edge, size.get("width") or edge)
        if 0 in thumbnail:
            raise MaterializeError(
                f"expected height and width, or shortest_edge, got {size}", path="$.size"
            )
        crop = settings.size("crop_size", {"height": 224, "width": 224})
        return cls(
            fixed=FixedSizeImageProcessor.clip(values),
            pinpoints=_pinpoints(values.get("image_grid_pinpoints") or PINPOINTS),
            thumbnail_size=thumbnail,
            tile_size=crop.get("height") or thumbnail[0],
        )

    @property
    def normalization(self) -> Normalization:
        """From bytes to floats."""
        return self.fixed.normalization

    @property
    def do_convert_rgb(self) -> bool:
        """Whether every mode is brought to RGB first."""
        return self.fixed.do_convert_rgb

    def layout(self, height: int, width: int, *, channels: int) -> CodesLayout:
        """Return (1, tiles, channels, height, width) and ``image_sizes`` (1, 2)."""
        to_height, to_width = best_resolution(height, width, self.pinpoints)
        sizes = [self.thumbnail_size]
        for left, top, right, bottom in self._boxes(to_height, to_width):
            sizes.append((bottom - top, right - left))
        extents = {self.fixed.extent(*size) for size in sizes}
        if len(extents) != 1:
            raise MaterializeError(
                "expected tiles of one size, got several",
                path="$.image_grid_pinpoints",
                hint=f"each resolution must be a multiple of {self.tile_size}",
            )
        return CodesLayout(
            codes=(1, len(sizes), channels, *extents.pop()),
            axis=2,
            model_specific_data={"image_sizes": np.array([[height, width]], dtype=np.int64)},
        )

    def write(self, pixels: Image.Image, codes: npt.NDArray[np.uint8]) -> None:
        """Write the thumbnail and the tiles."""
        resample = self.fixed.resample
        thumbnail = resize(pixels, *self.thumbnail_size, resample=resample)
        self.fixed.write_one(thumbnail, codes[0, 0])
        to_height, to_width = best_resolution(pixels.height, pixels.width, self.pinpoints)
        across, down = to_width / pixels.width, to_height / pixels.height
        if across < down:
            width, height = to_width, min(math.ceil(pixels.height * across), to_height)
        else:
            width, height = min(math.ceil(pixels.width * down), to_width), to_height
        resized = resize(pixels, height, width, resample=resample)
        canvas = Image.new(resized.mode, (to_width, to_height))
        canvas.paste(resized, ((to_width - width) // 2, (to_height - height) // 2))
        for number, box in enumerate(self._boxes(to_height, to_width), 1):
            self.fixed.write_one(canvas.crop(box), codes[0, number])

    def _boxes(self, height: int, width: int) -> list[tuple[int, int, int, int]]:
        edge = self.tile_size
        return [
            (left, top, min(left + edge, width), min(top + edge, height))
            for top in range(0, height, edge)
            for left in range(0, width, edge)
        ]


def best_resolution(
    height: int, width: int, resolutions: Sequence[tuple[int, int]]
) -> tuple[int, int]:
    """Return the resolution that keeps most of an image's pixels, and wastes least of its own.

    Raises
    ------
    MaterializeError
        When there is no resolution to choose from.

    References
    ----------
    transformers 5.23.0, ``image_processing_utils.select_best_resolution``.

    Examples
    --------
    >>> best_resolution(300, 400, [(672, 672), (336, 672)])
    (336, 672)
    """
    best: tuple[int, int] | None = None
    most, least = 0, math.inf
    for to_height, to_width in resolutions:
        scale = min(to_width / width, to_height / height)
        kept = min(int(width * scale) * int(height * scale), width * height)
        wasted = to_width * to_height - kept
        if kept > most or (kept == most and wasted < least):
            best, most, least = (to_height, to_width), kept, wasted
    if best is None:
        raise MaterializeError(
            "expected a resolution to choose from, got none", path="$.image_grid_pinpoints"
        )
    return best


def _pinpoints(value: Any) -> tuple[tuple[int, int], ...]:
    found: list[tuple[int, int]] = []
    for index, pair in enumerate(value if isinstance(value, (list, tuple)) else [value]):
        path = f"$.image_grid_pinpoints[{index}]"
        if not isinstance(pair, (list, tuple)) or len(pair) != 2:
            raise MaterializeError(f"expected a height and a width, got {pair!r}", path=path)
        height, width = pair
        if type(height) is not int or type(width) is not int or min(height, width) < 1:
            raise MaterializeError(f"expected two positive ints, got {pair!r}", path=path)
        found.append((height, width))
    return tuple(found)
