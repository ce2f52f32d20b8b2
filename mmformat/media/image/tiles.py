"""Tiled images: LLaVA-NeXT, LLaVA-OneVision, Gemma 3, InternVL and GOT-OCR 2."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt
from PIL import Image

from mmformat.errors import MaterializeError
from mmformat.media.image.fixed_size import FixedSizeImageProcessor
from mmformat.media.image.normalization import (
    CLIP_MEAN,
    CLIP_STD,
    STANDARD_MEAN,
    STANDARD_STD,
    Normalization,
    Settings,
)
from mmformat.media.image.pixels import Pixels, check_size, output_size
from mmformat.media.image.processor import CodesLayout, PixelProcessor

__all__ = [
    "Gemma3ImageProcessor",
    "LlavaNextImageProcessor",
    "LlavaOnevisionImageProcessor",
    "TilesImageProcessor",
    "best_resolution",
    "tile_grid",
]

ONEVISION_PINPOINTS: Final = tuple(
    (height, width) for height in range(384, 2305, 384) for width in range(384, 2305, 384)
)
PINPOINTS: Final = ((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008))


@dataclass(frozen=True, slots=True, kw_only=True)
class LlavaNextImageProcessor(FixedSizeImageProcessor):
    """Cut an image of any resolution into tiles, for LLaVA-NeXT.

    ``pixel_values`` are (1, tiles, channels, height, width), the thumbnail first, and
    ``image_sizes`` int64 (1, 2).

    Parameters
    ----------
    pinpoints : tuple of (int, int)
        The heights and widths to choose from.
    thumbnail_size : (int, int)
        Height and width of the whole image that precedes its tiles.
    tile_size : int
        Edge of a tile before it is resized and cropped.
    size, crop_size
        As for :class:`FixedSizeImageProcessor`, for each tile.
    normalization, resample, do_convert_rgb, backend, sixteen_bit
        As for :class:`PixelProcessor`.

    References
    ----------
    transformers 5.23.0, ``LlavaNextImageProcessor`` and ``LlavaNextImageProcessorPil``, bit for
    bit.

    Examples
    --------
    >>> processed = LlavaNextImageProcessor()(np.zeros((300, 400, 3), np.uint8))
    >>> processed.feature.shape, processed.model_specific_data["image_sizes"].tolist()
    ((1, 7, 3, 224, 224), [[300, 400]])
    """

    pinpoints: tuple[tuple[int, int], ...] = PINPOINTS
    thumbnail_size: tuple[int, int] = (224, 224)
    tile_size: int = 224

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> Self:
        """Return the processor of a ``preprocessor_config.json``'s values.

        Raises
        ------
        MaterializeError
            When a value is invalid.
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
        return cls.clip(
            values,
            pinpoints=_pinpoints(values.get("image_grid_pinpoints") or PINPOINTS),
            thumbnail_size=thumbnail,
            tile_size=crop.get("height") or thumbnail[0],
        )

    def layout(self, height: int, width: int, *, channels: int) -> CodesLayout:
        """Return (1, tiles, channels, height, width) and ``image_sizes`` (1, 2)."""
        canvas = best_resolution(height, width, self.pinpoints)
        sizes = [self.thumbnail_size, *(box[2:] for box in self._boxes(*canvas))]
        extents = {self.extent(*size) for size in sizes}
        if len(extents) != 1:
            raise MaterializeError(
                "the tiles have different sizes",
                path="$.image_grid_pinpoints",
                hint=f"each resolution must be a multiple of {self.tile_size}",
            )
        return CodesLayout(
            codes=(1, len(sizes), channels, *extents.pop()),
            axis=2,
            model_specific_data={"image_sizes": np.array([[height, width]], dtype=np.int64)},
        )

    def write(self, pixels: Pixels, codes: npt.NDArray[np.uint8]) -> None:
        """Write the thumbnail and the tiles."""
        thumbnail = pixels.resize(*self.thumbnail_size, resample=self.resample)
        self.write_one(thumbnail, codes[0, 0])
        to_height, to_width = best_resolution(pixels.height, pixels.width, self.pinpoints)
        across, down = to_width / pixels.width, to_height / pixels.height
        if across < down:
            width, height = to_width, min(math.ceil(pixels.height * across), to_height)
        else:
            width, height = min(math.ceil(pixels.width * down), to_width), to_height
        canvas = pixels.resize(height, width, resample=self.resample)
        top, left = (to_height - height) // 2, (to_width - width) // 2
        canvas = canvas.pad(top, left, to_height, to_width)
        for number, box in enumerate(self._boxes(to_height, to_width), 1):
            self.write_one(canvas.crop(*box), codes[0, number])

    def _boxes(self, height: int, width: int) -> list[tuple[int, int, int, int]]:
        # Top, left, height and width.
        edge = self.tile_size
        return [
            (top, left, min(edge, height - top), min(edge, width - left))
            for top in range(0, height, edge)
            for left in range(0, width, edge)
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class LlavaOnevisionImageProcessor(LlavaNextImageProcessor):
    """Cut a single image into tiles, for LLaVA-OneVision.

    ``pixel_values`` are (1, tiles, channels, height, width), the thumbnail first; ``image_sizes``
    int64 (1, 2) and ``batch_num_images`` int64 (1,).

    Parameters
    ----------
    pinpoints, thumbnail_size, tile_size, size, crop_size
        As for :class:`LlavaNextImageProcessor`, with LLaVA-OneVision's values.
    normalization, resample, do_convert_rgb, backend, sixteen_bit
        As for :class:`PixelProcessor`.

    References
    ----------
    transformers 5.23.0, ``LlavaOnevisionImageProcessor`` and its ``Pil`` class, bit for bit for one
    image a prompt.

    Examples
    --------
    >>> processor = LlavaOnevisionImageProcessor()
    >>> processor(np.zeros((300, 400, 3), np.uint8)).feature.shape
    (1, 3, 3, 384, 384)
    """

    size: Mapping[str, int] | None = field(default_factory=lambda: {"height": 384, "width": 384})
    crop_size: tuple[int, int] | None = None
    pinpoints: tuple[tuple[int, int], ...] = ONEVISION_PINPOINTS
    thumbnail_size: tuple[int, int] = (384, 384)
    tile_size: int = 384

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> Self:
        """Return the processor of a ``preprocessor_config.json``'s values.

        Raises
        ------
        MaterializeError
            When a value is invalid.
        """
        values = {
            "size": {"height": 384, "width": 384},
            "do_center_crop": False,
            "image_grid_pinpoints": ONEVISION_PINPOINTS,
            **{name: value for name, value in values.items() if value is not None},
        }
        if "crop_size" not in values:
            values["crop_size"] = values["size"]
        return super(LlavaOnevisionImageProcessor, cls).from_values(values)

    def layout(self, height: int, width: int, *, channels: int) -> CodesLayout:
        """Return (1, tiles, channels, height, width), ``image_sizes`` and ``batch_num_images``."""
        layout = LlavaNextImageProcessor.layout(self, height, width, channels=channels)
        layout.model_specific_data["batch_num_images"] = np.array([1], dtype=np.int64)
        return layout


@dataclass(frozen=True, slots=True, kw_only=True)
class Gemma3ImageProcessor(FixedSizeImageProcessor):
    """Produce images of a fixed size, for Gemma 3, and crops of long ones with pan and scan.

    ``pixel_values`` are (1 + crops, channels, height, width), and ``num_crops`` int64 (1,).

    Parameters
    ----------
    pan_and_scan : (int, int, float), or None
        The smallest edge of a crop, the most crops, and the ratio of edges from which an image is
        cropped; None does not crop.
    size, crop_size
        As for :class:`FixedSizeImageProcessor`.
    normalization, resample, do_convert_rgb, backend, sixteen_bit
        As for :class:`PixelProcessor`.

    References
    ----------
    transformers 5.23.0, ``Gemma3ImageProcessor`` and ``Gemma3ImageProcessorPil``, bit for bit.

    Examples
    --------
    >>> processor = Gemma3ImageProcessor(pan_and_scan=(64, 4, 1.2))
    >>> processor(np.zeros((300, 700, 3), np.uint8)).model_specific_data["num_crops"].tolist()
    [2]
    """

    size: Mapping[str, int] | None = field(default_factory=lambda: {"height": 224, "width": 224})
    crop_size: tuple[int, int] | None = None
    normalization: Normalization = field(
        default_factory=lambda: Normalization(mean=STANDARD_MEAN, std=STANDARD_STD)
    )
    resample: int = Image.Resampling.BILINEAR
    pan_and_scan: tuple[int, int, float] | None = None

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> Self:
        """Return the processor of a ``preprocessor_config.json``'s values.

        Raises
        ------
        MaterializeError
            When a value is invalid.
        """
        settings = Settings(values)
        scan = None
        if settings.flag("do_pan_and_scan", False):
            ratio = settings.numbers("pan_and_scan_min_ratio_to_activate", (0.0,))
            if not isinstance(ratio, float):
                raise MaterializeError(
                    f"expected a number, got {ratio!r}",
                    path="$.pan_and_scan_min_ratio_to_activate",
                )
            scan = (
                settings.integer("pan_and_scan_min_crop_size", 0),
                settings.integer("pan_and_scan_max_num_crops", 0),
                ratio,
            )
        size = settings.size("size", {"height": 224, "width": 224})
        return cls(
            size=size if settings.flag("do_resize", True) else None,
            pan_and_scan=scan,
            **settings.pixels(
                mean=STANDARD_MEAN, std=STANDARD_STD, resample=Image.Resampling.BILINEAR
            ),
        )

    def layout(self, height: int, width: int, *, channels: int) -> CodesLayout:
        """Return (1 + crops, channels, height, width) and ``num_crops`` (1,)."""
        boxes = self._boxes(height, width)
        extents = {self.extent(height, width), *(self.extent(*box[2:]) for box in boxes)}
        if len(extents) != 1:
            raise MaterializeError("the crops have different sizes", path="$.do_resize")
        return CodesLayout(
            codes=(1 + len(boxes), channels, *extents.pop()),
            axis=1,
            model_specific_data={"num_crops": np.array([len(boxes)], dtype=np.int64)},
        )

    def write(self, pixels: Pixels, codes: npt.NDArray[np.uint8]) -> None:
        """Write the whole image and its crops."""
        self.write_one(pixels, codes[0])
        for number, box in enumerate(self._boxes(pixels.height, pixels.width), 1):
            self.write_one(pixels.crop(*box), codes[number])

    def _boxes(self, height: int, width: int) -> list[tuple[int, int, int, int]]:
        # Top, left, height and width of each crop: along the longer edge, which comes first here.
        if self.pan_and_scan is None:
            return []
        smallest, most, ratio = self.pan_and_scan
        long, short = max(height, width), min(height, width)
        if long / short < ratio:
            return []
        count = min(math.floor(long / smallest), math.floor(long / short + 0.5))
        count = min(most, max(2, count))
        step = math.ceil(long / count)
        if min(step, short) < smallest:
            return []
        starts = [(step * number, min(step, long - step * number)) for number in range(count)]
        if width >= height:
            return [(0, start, height, extent) for start, extent in starts]
        return [(start, 0, extent, width) for start, extent in starts]


def best_resolution(
    height: int, width: int, resolutions: Sequence[tuple[int, int]]
) -> tuple[int, int]:
    """Return the resolution that keeps most of the image, then the one with the least padding.

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
        raise MaterializeError("no resolution to choose from", path="$.image_grid_pinpoints")
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


@dataclass(frozen=True, slots=True, kw_only=True)
class TilesImageProcessor(PixelProcessor):
    """Cut an image into tiles of one size, for InternVL and GOT-OCR 2.

    ``pixel_values`` are (tiles, channels, height, width), and ``num_patches`` int64 (1,).

    Parameters
    ----------
    size : mapping
        ``height`` and ``width`` of a tile, and of the whole image when it is not cut.
    crop_to_patches : bool
        Whether to cut; InternVL's processor says yes, its image processor's default is no.
    min_patches, max_patches : int
        Bounds on the tiles, the thumbnail not counted.
    do_resize : bool
        Whether to resize an image that is not cut; cutting resizes always.
    normalization, resample, do_convert_rgb, backend, sixteen_bit
        As for :class:`PixelProcessor`.

    References
    ----------
    transformers 5.23.0, ``GotOcr2ImageProcessor`` and ``GotOcr2ImageProcessorPil``, bit for bit.

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
    do_resize: bool = True

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> TilesImageProcessor:
        """Return the processor of a ``preprocessor_config.json``'s values.

        Raises
        ------
        MaterializeError
            When a value is invalid.
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

    def write(self, pixels: Pixels, codes: npt.NDArray[np.uint8]) -> None:
        """Write the tiles row by row, and the thumbnail last."""
        height, width = codes.shape[2:]
        resample = self.resample
        if not self._cuts:
            if self.do_resize:
                pixels = pixels.resize(height, width, resample=resample)
            pixels.write(codes[0])
            return
        columns, rows = self._grid(pixels.height, pixels.width)
        whole = pixels.resize(height * rows, width * columns, resample=resample)
        for number in range(rows * columns):
            top, left = number // columns * height, number % columns * width
            whole.crop(top, left, height, width).write(codes[number])
        if rows * columns > 1:
            pixels.resize(height, width, resample=resample).write(codes[rows * columns])

    @property
    def _cuts(self) -> bool:
        # The torchvision backend cuts into one tile, too: it resizes even without do_resize.
        return self.crop_to_patches and (self.max_patches > 1 or self.backend != "pil")

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
