"""Pixels in Pillow: conversion to RGB, target sizes, resizing, cropping."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, Union

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from mmformat.errors import MaterializeError
from mmformat.media.sources import reason_of

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "MAX_RESIZED_PIXELS",
    "Encoding",
    "FloatDtype",
    "ImageLike",
    "center_crop",
    "check_size",
    "output_size",
    "planes",
    "resize",
    "size_mapping",
    "smart_resize",
    "to_rgb",
    "write_channels",
]

Encoding: TypeAlias = Literal["dictionary", "plain"]
"""How the pixels come out: codes and a table, or one float an element."""

FloatDtype: TypeAlias = Literal["float32", "bfloat16", "float16"]
"""The element type of the (expanded) pixels."""

ImageLike: TypeAlias = Union["Image.Image", "npt.NDArray[np.uint8]"]
"""An opened image, or its pixels as uint8 of shape (height, width, channels)."""

_WHITE = (255, 255, 255, 255)


def to_rgb(image: ImageLike, *, convert: bool = True) -> Image.Image:
    """Return the image in mode RGB (or as it is, when ``convert`` is false).

    Parameters
    ----------
    image : PIL.Image.Image or uint8 array (height, width, channels)
        One, three or four channels in an array; an array (height, width) is one channel.
    convert : bool, default True
        Put an image with transparency on white, and bring every other mode to RGB.

    Raises
    ------
    MaterializeError
        When the pixels cannot be read, or are of a kind that transformers cannot process either.

    Notes
    -----
    **Copies**: none for an RGB image; else one of the pixels. An EXIF orientation is not applied:
    whoever opens the file does that.

    References
    ----------
    transformers 5.23.0, ``image_transforms.convert_to_rgb``.
    """
    try:
        if isinstance(image, np.ndarray):
            return _array_to_rgb(image, convert)
        return _pillow_to_rgb(image, convert)
    except MaterializeError:
        raise
    except (OSError, ValueError, SyntaxError, UnidentifiedImageError, MemoryError) as error:
        raise MaterializeError(f"the image cannot be read: {reason_of(error)}") from error


def planes(image: Image.Image) -> Callable[[int], npt.NDArray[np.uint8]]:
    """Return a function that returns one channel of the image as an array (height, width)."""
    if len(image.getbands()) == 1:
        return lambda channel: np.asarray(image)
    return lambda channel: np.asarray(image.getchannel(channel))


def _pillow_to_rgb(image: Image.Image, convert: bool) -> Image.Image:
    if not isinstance(image, Image.Image):
        raise MaterializeError(
            f"expected a PIL image or a numpy array, got {type(image).__name__}",
            hint="mmformat.materialize opens paths, bytes and URLs",
        )
    if 0 in image.size:
        raise MaterializeError(f"the image has no pixels: {image.height} x {image.width}")
    image.load()  # a file that ends too early says so here
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


def _array_to_rgb(array: npt.NDArray[Any], convert: bool) -> Image.Image:
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
    if convert and array.shape[2] == 1:
        array = np.repeat(array, 3, axis=2)
    elif convert and array.shape[2] == 4:
        # transformers blends arrays in float64 and rounds, unlike Pillow's compositing.
        alpha = array[..., 3:4] / 255
        array = np.round(alpha * array[..., :3] + (1 - alpha) * 255).astype(np.uint8)
    return Image.fromarray(array[..., 0] if array.shape[2] == 1 else np.ascontiguousarray(array))


MAX_RESIZED_PIXELS: Final = 2**27
"""More pixels than any processor needs (Pillow holds 4 bytes each); a thin image could ask more."""

MAX_ASPECT_RATIO: Final = 200


def resize(image: Image.Image, height: int, width: int, *, resample: int) -> Image.Image:
    """Return the image resized as transformers' PIL backend does.

    Raises
    ------
    MaterializeError
        When the size is empty or passes ``MAX_RESIZED_PIXELS``.
    """
    check_size(height, width, of=(image.height, image.width))
    if image.size == (width, height):
        return image  # Pillow would copy it
    try:
        return image.resize((width, height), resample=Image.Resampling(resample))
    except (OSError, ValueError, SyntaxError, MemoryError) as error:
        raise MaterializeError(f"the image cannot be resized: {reason_of(error)}") from error


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


def write_channels(pixels: Image.Image, out: npt.NDArray[np.uint8]) -> None:
    """Write the bytes of an image into an array (channels, height, width).

    Notes
    -----
    **Copies**: each byte once, after Pillow's own copy of each channel.
    """
    plane = planes(pixels)
    for channel in range(out.shape[0]):
        out[channel] = plane(channel)


def center_crop(pixels: Image.Image, height: int, width: int) -> Image.Image:
    """Return the center of an image.

    Parameters
    ----------
    height, width : int
        The size of the result; where the image is smaller, zeros surround it.

    References
    ----------
    transformers 5.23.0, ``image_transforms.center_crop``: an odd rest is one more line at the top
    or left where zeros are added, one less where lines are cut off.
    """
    top, left = (pixels.height - height) // 2, (pixels.width - width) // 2
    return pixels.crop((left, top, left + width, top + height))
