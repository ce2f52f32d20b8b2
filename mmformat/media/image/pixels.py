"""Bring an image of any mode to the RGB bytes that transformers would start from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from mmformat.errors import MaterializeError
from mmformat.media.image.processed import ImageLike

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["planes", "to_rgb"]

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
        raise MaterializeError(f"expected an image that can be read, got: {error}") from error


def planes(image: Image.Image) -> Callable[[int], npt.NDArray[np.uint8]]:
    """Return a function that gives one channel of the image as an array (height, width)."""
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
        raise MaterializeError(f"expected an image with pixels, got {image.height} x {image.width}")
    image.load()  # a file that ends too early says so here
    if not convert:
        # transformers goes on with np.array(image), which has a meaning for bytes alone.
        if image.mode not in ("L", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "LAB", "LA"):
            raise MaterializeError(
                f"expected an image of bytes, got mode {image.mode}",
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
        # Not Pillow's compositing: transformers blends arrays in float64 and rounds.
        alpha = array[..., 3:4] / 255
        array = np.round(alpha * array[..., :3] + (1 - alpha) * 255).astype(np.uint8)
    return Image.fromarray(array[..., 0] if array.shape[2] == 1 else np.ascontiguousarray(array))
