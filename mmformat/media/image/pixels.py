"""An image while it is processed, in Pillow or in torch, and the sizes it is resized to."""

from __future__ import annotations

import ctypes
import importlib.util
import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Final, Literal, Self, TypeAlias, Union

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from mmformat._extras import require
from mmformat.errors import MaterializeError
from mmformat.media.sources import reason_of

__all__ = [
    "BACKENDS",
    "MAX_RESIZED_PIXELS",
    "SIXTEEN_BIT",
    "Backend",
    "Encoding",
    "FloatDtype",
    "ImageLike",
    "PillowPixels",
    "Pixels",
    "SixteenBit",
    "TorchPixels",
    "check_size",
    "opened_pixels",
    "output_size",
    "resolve_backend",
    "size_mapping",
    "smart_resize",
    "smart_resize_video",
]

Encoding: TypeAlias = Literal["dictionary", "plain"]
"""How the pixels come out: codes and a table, or one float an element."""

FloatDtype: TypeAlias = Literal["float32", "bfloat16", "float16"]
"""The element type of the (expanded) pixels."""

ImageLike: TypeAlias = Union["Image.Image", "npt.NDArray[np.uint8]"]
"""An opened image, or its pixels as uint8 of shape (height, width, channels)."""

Backend: TypeAlias = Literal["auto", "torchvision", "pil"]
"""Whose pixels: those of transformers' torchvision backend or of its PIL backend."""

SixteenBit: TypeAlias = Literal["clip", "scale"]
"""How 16-bit grey becomes 8-bit: values above 255 become white (as in transformers), or scaled."""

BACKENDS: Final = ("auto", "torchvision", "pil")
SIXTEEN_BIT: Final = ("clip", "scale")

MAX_RESIZED_PIXELS: Final = 2**27
"""More pixels than any processor needs (Pillow holds 4 bytes each); a thin image could ask more."""

MAX_ASPECT_RATIO: Final = 200

_WHITE = (255, 255, 255, 255)
_ORIGIN = "transformers' torchvision backend"
_TORCH_MODES: Final = {
    int(Image.Resampling.NEAREST): "nearest-exact",
    int(Image.Resampling.BILINEAR): "bilinear",
    int(Image.Resampling.BICUBIC): "bicubic",
    int(Image.Resampling.LANCZOS): "lanczos",
}
_log = logging.getLogger(__name__)


def resolve_backend(backend: Backend) -> Literal["torchvision", "pil"]:
    """Return the backend that ``"auto"`` stands for: what transformers chooses here.

    Raises
    ------
    MaterializeError
        For another name, or when ``"torchvision"`` is asked for and torch is missing.

    References
    ----------
    transformers 5.23.0, ``AutoImageProcessor``: torchvision where it is installed, else PIL.
    """
    if backend not in BACKENDS:
        raise MaterializeError(
            f"backend must be 'auto', 'torchvision' or 'pil', got {backend!r}", path="$.backend"
        )
    if backend != "auto":
        return backend
    found = all(importlib.util.find_spec(name) for name in ("torch", "torchvision"))
    return "torchvision" if found else "pil"


class Pixels(ABC):
    """The bytes of an image; every step returns a new one."""

    __slots__ = ()

    height: int
    width: int
    channels: int

    def resize(self, height: int, width: int, *, resample: int) -> Self:
        """Return the image resized as transformers' backend does.

        Raises
        ------
        MaterializeError
            When the size is empty or exceeds ``MAX_RESIZED_PIXELS``, or the backend lacks the
            filter.
        """
        check_size(height, width, of=(self.height, self.width))
        if (height, width) == (self.height, self.width):
            return self
        return self._resize(height, width, resample)

    @abstractmethod
    def _resize(self, height: int, width: int, resample: int) -> Self: ...

    @abstractmethod
    def crop(self, top: int, left: int, height: int, width: int) -> Self:
        """Return a part of the image; zeros surround the image where the part exceeds it."""

    @abstractmethod
    def pad(
        self, top: int, left: int, height: int, width: int, *, color: tuple[int, ...] | None = None
    ) -> Self:
        """Return a canvas of a color (zeros when omitted) with the image at a place."""

    @abstractmethod
    def center_crop(self, height: int, width: int) -> Self:
        """Return the center; zeros surround the image where it is smaller."""

    @abstractmethod
    def rows(self, start: int, stop: int) -> list[npt.NDArray[np.uint8]]:
        """Return some rows of each channel, each C-contiguous (rows, width)."""

    def write(self, out: npt.NDArray[np.uint8]) -> None:
        """Write the bytes into an array (channels, height, width)."""
        for channel, plane in enumerate(self.rows(0, self.height)):
            out[channel] = plane

    def write_patches(self, out: npt.NDArray[np.uint8], *, merge_size: int, strip: int) -> None:
        """Write patches (rows, columns, merge_size, merge_size, channels, patch_size, patch_size).

        Parameters
        ----------
        out : uint8 array
            Patches are grouped in squares of ``merge_size``; the innermost axis is contiguous.
        strip : int
            Pixels that are moved at once, so that they stay in a core's cache.
        """
        rows, columns, _, _, _, patch_size = out.shape[:6]
        # A void element is one line of a patch, so that numpy moves whole lines.
        line = np.dtype((np.void, patch_size))
        lines = out.view(line)[..., 0]
        factor = patch_size * merge_size
        step = max(1, strip // (self.width * factor))
        for start in range(0, rows, step):
            stop = min(start + step, rows)
            for channel, plane in enumerate(self.rows(start * factor, stop * factor)):
                cells = plane.view(line).reshape(
                    stop - start, merge_size, patch_size, columns, merge_size
                )
                lines[start:stop, :, :, :, channel] = cells.transpose(0, 3, 1, 4, 2)


class PillowPixels(Pixels):
    """An image in Pillow, processed as transformers' PIL backend does."""

    __slots__ = ("image",)

    def __init__(self, image: Image.Image) -> None:
        self.image = image

    @property
    def height(self) -> int:  # type: ignore[override]
        """In pixels."""
        return self.image.height

    @property
    def width(self) -> int:  # type: ignore[override]
        """In pixels."""
        return self.image.width

    @property
    def channels(self) -> int:  # type: ignore[override]
        """The number of channels."""
        return len(self.image.getbands())

    def _resize(self, height: int, width: int, resample: int) -> PillowPixels:
        try:
            return PillowPixels(self.image.resize((width, height), Image.Resampling(resample)))
        except (OSError, ValueError, SyntaxError, MemoryError) as error:
            raise MaterializeError(f"the image cannot be resized: {reason_of(error)}") from error

    def crop(self, top: int, left: int, height: int, width: int) -> PillowPixels:
        """Return a part; zeros surround the image."""
        return PillowPixels(self.image.crop((left, top, left + width, top + height)))

    def pad(
        self, top: int, left: int, height: int, width: int, *, color: tuple[int, ...] | None = None
    ) -> PillowPixels:
        """Return a canvas with the image at a place."""
        canvas = Image.new(self.image.mode, (width, height), color or 0)
        canvas.paste(self.image, (left, top))
        return PillowPixels(canvas)

    def center_crop(self, height: int, width: int) -> PillowPixels:
        """Return the center."""
        # transformers' image_transforms.center_crop: an odd rest is one more line at the top or
        # left where zeros are added, one less where lines are cut off.
        return self.crop((self.height - height) // 2, (self.width - width) // 2, height, width)

    def rows(self, start: int, stop: int) -> list[npt.NDArray[np.uint8]]:
        """Return some rows of each channel."""
        part = self.image
        if (start, stop) != (0, part.height):
            part = part.crop((0, start, part.width, stop))
        if self.channels == 1:
            return [np.asarray(part)]
        return [np.asarray(part.getchannel(channel)) for channel in range(self.channels)]


class TorchPixels(Pixels):
    """An image in torch, processed as transformers' torchvision backend does.

    Parameters
    ----------
    tensor : uint8 tensor (channels, height, width)
        With any strides.
    """

    __slots__ = ("tensor",)

    def __init__(self, tensor: Any) -> None:
        self.tensor = tensor

    @classmethod
    def of(cls, array: npt.NDArray[np.uint8]) -> TorchPixels:
        """Return the pixels of an array (height, width[, channels]), without a copy.

        Raises
        ------
        MissingExtraError
            When torch is not installed.
        """
        torch = require("torch", extra="torch")
        array = np.ascontiguousarray(array)
        if not array.flags.writeable:
            # Nothing here writes to the pixels, and torch warns of read-only memory.
            memory = (ctypes.c_uint8 * array.nbytes).from_address(array.ctypes.data)
            memory.owner = array  # type: ignore[attr-defined]
            array = np.frombuffer(memoryview(memory), np.uint8).reshape(array.shape)
        tensor = torch.from_numpy(array)
        return cls(tensor[None] if array.ndim == 2 else tensor.permute(2, 0, 1))

    @property
    def height(self) -> int:  # type: ignore[override]
        """In pixels."""
        return int(self.tensor.shape[1])

    @property
    def width(self) -> int:  # type: ignore[override]
        """In pixels."""
        return int(self.tensor.shape[2])

    @property
    def channels(self) -> int:  # type: ignore[override]
        """The number of channels."""
        return int(self.tensor.shape[0])

    def _resize(self, height: int, width: int, resample: int) -> TorchPixels:
        import torch

        mode = _TORCH_MODES.get(int(resample))
        if mode is None:
            raise MaterializeError(
                f"{_ORIGIN} cannot resize with the filter {Image.Resampling(resample).name}",
                path="$.resample",
                hint="backend='pil'",
            )
        source = self.tensor[None]
        # torchvision's rule: without AVX2, bilinear resizing of bytes is done in float32.
        floats = mode == "bilinear" and not _has_fast_bytes()
        smooth: dict[str, Any] = {}
        if mode != "nearest-exact":
            smooth = {"align_corners": False, "antialias": True}
        made = torch.nn.functional.interpolate(
            source.to(torch.float32) if floats else source,
            size=(height, width),
            mode=mode,
            **smooth,
        )
        return TorchPixels((made.round_().to(torch.uint8) if floats else made)[0])

    def crop(self, top: int, left: int, height: int, width: int) -> TorchPixels:
        """Return a part; zeros surround the image."""
        if top >= 0 and left >= 0 and top + height <= self.height and left + width <= self.width:
            return TorchPixels(self.tensor[:, top : top + height, left : left + width])
        canvas = self.tensor.new_zeros((self.channels, height, width))
        rows = slice(max(top, 0), min(top + height, self.height))
        columns = slice(max(left, 0), min(left + width, self.width))
        part = self.tensor[:, rows, columns]
        at_top, at_left = max(-top, 0), max(-left, 0)
        canvas[:, at_top : at_top + part.shape[1], at_left : at_left + part.shape[2]] = part
        return TorchPixels(canvas)

    def pad(
        self, top: int, left: int, height: int, width: int, *, color: tuple[int, ...] | None = None
    ) -> TorchPixels:
        """Return a canvas with the image at a place."""
        if color is None:
            return self.crop(-top, -left, height, width)
        canvas = self.tensor.new_tensor(color)[:, None, None].repeat(1, height, width)
        canvas[:, top : top + self.height, left : left + self.width] = self.tensor
        return TorchPixels(canvas)

    def center_crop(self, height: int, width: int) -> TorchPixels:
        """Return the center."""
        # TorchvisionBackend.center_crop rounds towards zero, also where zeros are added.
        top, left = int((self.height - height) / 2), int((self.width - width) / 2)
        return self.crop(top, left, height, width)

    def rows(self, start: int, stop: int) -> list[npt.NDArray[np.uint8]]:
        """Return some rows of each channel."""
        part = self.tensor[:, start:stop]
        if not part.is_contiguous() and part.stride(2) != 1:
            part = part.contiguous()
        return [np.ascontiguousarray(plane) for plane in part.numpy()]


def _has_fast_bytes() -> bool:
    import platform

    import torch

    return torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512") or (
        platform.machine() in ("aarch64", "arm64")
    )


def opened_pixels(
    image: ImageLike,
    *,
    convert: bool = True,
    backend: Literal["torchvision", "pil"] = "pil",
    sixteen_bit: SixteenBit = "clip",
) -> Pixels:
    """Return the pixels of an image, in RGB (or as they are, when ``convert`` is false).

    Parameters
    ----------
    image : PIL.Image.Image or uint8 array (height, width, channels)
        One, three or four channels in an array; an array (height, width) is one channel.
    convert : bool, default True
        Put an image with transparency on white, and convert every other mode to RGB.
    backend : {"torchvision", "pil"}
        Where the next steps run.
    sixteen_bit : {"clip", "scale"}
        How 16-bit grey becomes 8-bit.

    Raises
    ------
    MaterializeError
        When the pixels cannot be read, or are of a kind that transformers cannot process either.

    Notes
    -----
    **Copies**: one of the pixels, except for an RGB image that stays in Pillow. An EXIF orientation
    is not applied: whoever opens the file does that.

    References
    ----------
    transformers 5.23.0, ``image_transforms.convert_to_rgb`` and, for arrays,
    ``TorchvisionBackend.convert_to_rgb``.
    """
    try:
        if isinstance(image, np.ndarray):
            array = _checked_array(image)
            if backend == "torchvision":
                return TorchPixels.of(_blended_in_torch(array) if convert else array)
            return PillowPixels(_array_to_image(array, convert))
        image = _pillow_to_rgb(image, convert, sixteen_bit)
        return (
            TorchPixels.of(np.asarray(image)) if backend == "torchvision" else PillowPixels(image)
        )
    except MaterializeError:
        raise
    except (OSError, ValueError, SyntaxError, UnidentifiedImageError, MemoryError) as error:
        raise MaterializeError(f"the image cannot be read: {reason_of(error)}") from error


def _pillow_to_rgb(image: Image.Image, convert: bool, sixteen_bit: SixteenBit) -> Image.Image:
    if not isinstance(image, Image.Image):
        raise MaterializeError(
            f"expected a PIL image or a numpy array, got {type(image).__name__}",
            hint="mmformat.materialize opens paths, bytes and URLs",
        )
    if 0 in image.size:
        raise MaterializeError(f"the image has no pixels: {image.height} x {image.width}")
    image.load()  # an incomplete file fails here
    if image.mode.startswith("I;16"):
        if sixteen_bit == "scale":
            image = Image.fromarray(
                ((np.asarray(image).astype(np.uint32) + 128) // 257).astype("u1")
            )
        elif convert:
            _log.warning(
                "a 16-bit grey image was clipped to 8 bits, as transformers does: all above 255 is "
                "white; sixteen_bit='scale' keeps the image"
            )
    if not convert:
        # transformers continues with np.array(image), which is only meaningful for bytes.
        if image.mode not in ("L", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "LAB", "LA"):
            raise MaterializeError(
                f"only images of 8 bits a channel can stay unconverted, got mode {image.mode}",
                path="$.do_convert_rgb",
                hint="let the processor convert: do_convert_rgb=True",
            )
        return image if image.mode in ("L", "RGB") else Image.fromarray(np.array(image))
    if "A" in image.getbands() or image.info.get("transparency") is not None:
        image = image.convert("RGBA")
        background = Image.new("RGBA", image.size, _WHITE)
        return Image.alpha_composite(background, image).convert("RGB")
    return image.convert("RGB") if image.mode != "RGB" else image


def _checked_array(array: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    if array.dtype != np.uint8:
        raise MaterializeError(f"expected pixels of uint8, got {array.dtype}", path="$.dtype")
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or 0 in array.shape:
        raise MaterializeError(
            f"expected pixels of shape (height, width, 1, 3 or 4), got {array.shape}",
            path="$.shape",
            hint="channels come last: x.transpose(1, 2, 0)",
        )
    return array


def _array_to_image(array: npt.NDArray[np.uint8], convert: bool) -> Image.Image:
    if convert and array.shape[2] == 1:
        array = np.repeat(array, 3, axis=2)
    elif convert and array.shape[2] == 4:
        # transformers blends arrays in float64 and rounds, unlike Pillow's compositing.
        alpha = array[..., 3:4] / 255
        array = np.round(alpha * array[..., :3] + (1 - alpha) * 255).astype(np.uint8)
    return Image.fromarray(array[..., 0] if array.shape[2] == 1 else np.ascontiguousarray(array))


def _blended_in_torch(array: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    if array.shape[2] == 1:
        return np.repeat(array, 3, axis=2)
    if array.shape[2] == 4:
        # torchvision blends in float32, and scales back with this factor.
        floats = array.astype(np.float32) / np.float32(255)
        alpha = floats[..., 3:]
        blended = floats[..., :3] * alpha + (1 - alpha)
        scaled: npt.NDArray[np.uint8] = (blended * np.float32(255 + 1.0 - 1e-3)).astype(np.uint8)
        return scaled
    return array


def check_size(height: int, width: int, *, of: tuple[int, int]) -> None:
    """Raise unless an image can be resized to this.

    Parameters
    ----------
    of : (int, int)
        Height and width of the image.

    Raises
    ------
    MaterializeError
        When the size is empty or passes ``MAX_RESIZED_PIXELS``.
    """
    if height < 1 or width < 1 or height * width > MAX_RESIZED_PIXELS:
        raise MaterializeError(
            f"expected to resize to at most {MAX_RESIZED_PIXELS:,} pixels, got {height} x {width}",
            path="$.size",
            hint=f"the image is {of[0]} x {of[1]}",
        )


def size_mapping(value: Any, *, default_to_square: bool = True, path: str) -> dict[str, int]:
    """Return a size of a configuration (int, pair or mapping) as a mapping.

    Raises
    ------
    MaterializeError
        When it is none of these.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return {"height": value, "width": value} if default_to_square else {"shortest_edge": value}
    if isinstance(value, (list, tuple)) and len(value) == 2:
        return {"height": int(value[0]), "width": int(value[1])}
    if isinstance(value, Mapping):
        found = {key: extent for key, extent in value.items() if extent is not None}
        if found and all(type(extent) is int and extent > 0 for extent in found.values()):
            return found
    raise MaterializeError(f"expected a size, got {value!r}", path=path)


def output_size(height: int, width: int, *, size: Mapping[str, int]) -> tuple[int, int]:
    """Return the height and width that an image is resized to.

    Parameters
    ----------
    size : mapping
        ``shortest_edge`` (with or without ``longest_edge``), ``max_height`` and ``max_width``, or
        ``height`` and ``width``; the first that is there counts.

    Raises
    ------
    MaterializeError
        When none of these is there.

    References
    ----------
    transformers 5.23.0, ``PilBackend.resize``.
    """
    shortest, longest = size.get("shortest_edge"), size.get("longest_edge")
    if shortest and longest:
        return _bounded_edges(height, width, shortest, longest)
    if shortest:
        if width <= height:
            return int(shortest * height / width), shortest
        return shortest, int(shortest * width / height)
    if "max_height" in size and "max_width" in size:
        scale = min(size["max_height"] / height, size["max_width"] / width)
        return int(height * scale), int(width * scale)
    if "height" in size and "width" in size:
        return size["height"], size["width"]
    raise MaterializeError(
        f"expected height and width, max_height and max_width, or shortest_edge, got {dict(size)}",
        path="$.size",
    )


def smart_resize(
    height: int, width: int, *, factor: int, min_pixels: int, max_pixels: int
) -> tuple[int, int]:
    """Return the size nearest to the image's whose edges are multiples of ``factor``.

    Raises
    ------
    MaterializeError
        When one edge is more than 200 times the other.

    References
    ----------
    transformers 5.23.0, ``models.qwen2_vl``, ``smart_resize``.

    Examples
    --------
    >>> smart_resize(1024, 768, factor=28, min_pixels=3136, max_pixels=1003520)
    (1036, 756)
    """
    if max(height, width) / min(height, width) > MAX_ASPECT_RATIO:
        raise MaterializeError(
            f"expected an aspect ratio of at most {MAX_ASPECT_RATIO}, got {height} x {width}",
            path="$.size",
        )
    to_height = round(height / factor) * factor
    to_width = round(width / factor) * factor
    if to_height * to_width > max_pixels:
        beta = math.sqrt((height * width) / max_pixels)
        to_height = max(factor, math.floor(height / beta / factor) * factor)
        to_width = max(factor, math.floor(width / beta / factor) * factor)
    elif to_height * to_width < min_pixels:
        beta = math.sqrt(min_pixels / (height * width))
        to_height = math.ceil(height * beta / factor) * factor
        to_width = math.ceil(width * beta / factor) * factor
    return to_height, to_width


def _bounded_edges(height: int, width: int, shortest: int, longest: int) -> tuple[int, int]:
    # transformers' get_size_with_aspect_ratio, which rounds differently.
    small, large = float(min(height, width)), float(max(height, width))
    raw: float = shortest
    if large / small * shortest > longest:
        raw = longest * small / large
        shortest = round(raw)
    if (height <= width and height == shortest) or (width <= height and width == shortest):
        return height, width
    if width < height:
        return int(raw * height / width), shortest
    return shortest, int(raw * width / height)


def smart_resize_video(
    frames: int,
    height: int,
    width: int,
    *,
    temporal_factor: int,
    factor: int,
    min_pixels: int,
    max_pixels: int,
) -> tuple[int, int]:
    """Return the size of frames nearest to theirs whose edges are multiples of ``factor``.

    Parameters
    ----------
    min_pixels, max_pixels : int
        Bounds on the pixels of all frames together.

    Raises
    ------
    MaterializeError
        When one edge is more than 200 times the other, or there are too few frames.

    References
    ----------
    transformers 5.23.0, ``smart_resize`` of ``models.qwen3_vl`` and ``models.glm4v``.
    """
    if frames < temporal_factor:
        raise MaterializeError(
            f"expected {temporal_factor} frames or more, got {frames}", code="too-few-frames"
        )
    if height < factor or width < factor:
        scale = max(factor / height, factor / width)
        height, width = int(height * scale), int(width * scale)
    if max(height, width) / min(height, width) > MAX_ASPECT_RATIO:
        raise MaterializeError(
            f"expected an aspect ratio of at most {MAX_ASPECT_RATIO}, got {height} x {width}",
            path="$.size",
        )
    to_height = round(height / factor) * factor
    to_width = round(width / factor) * factor
    spans = round(frames / temporal_factor) * temporal_factor
    if spans * to_height * to_width > max_pixels:
        beta = math.sqrt((frames * height * width) / max_pixels)
        to_height = max(factor, math.floor(height / beta / factor) * factor)
        to_width = max(factor, math.floor(width / beta / factor) * factor)
    elif spans * to_height * to_width < min_pixels:
        beta = math.sqrt(min_pixels / (frames * height * width))
        to_height = math.ceil(height * beta / factor) * factor
        to_width = math.ceil(width * beta / factor) * factor
    return to_height, to_width
