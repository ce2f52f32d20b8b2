"""The bytes of an image, channel by channel, and those of its center."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

from mmformat.media.image.pixels import planes

__all__ = ["center_crop", "write_channels"]


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
