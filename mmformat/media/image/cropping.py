"""Crop the bytes of an image to its center, with zeros where it is too small."""

from __future__ import annotations

from math import ceil

import numpy as np
import numpy.typing as npt
from PIL import Image

from mmformat.media.image.pixels import planes

__all__ = ["center_crop", "channel_codes"]


def channel_codes(pixels: Image.Image) -> npt.NDArray[np.uint8]:
    """Return the bytes of an image as an array (channels, height, width).

    Notes
    -----
    **Copies**: each byte once, after Pillow's own copy of each channel.
    """
    out = np.empty((len(pixels.getbands()), pixels.height, pixels.width), np.uint8)
    plane = planes(pixels)
    for channel in range(out.shape[0]):
        out[channel] = plane(channel)
    return out


def center_crop(pixels: Image.Image, height: int, width: int) -> npt.NDArray[np.uint8]:
    """Return the center of an image as an array (channels, height, width).

    Parameters
    ----------
    height, width : int
        The size of the result; where the image is smaller, zeros surround it.

    References
    ----------
    transformers 5.23.0, ``image_transforms.center_crop``, of which an odd difference rounds one
    way when cropping and the other way when padding.
    """
    top, left = (pixels.height - height) // 2, (pixels.width - width) // 2
    if top >= 0 and left >= 0:
        return channel_codes(pixels.crop((left, top, left + width, top + height)))
    full_height, full_width = max(height, pixels.height), max(width, pixels.width)
    row = ceil((full_height - pixels.height) / 2)
    column = ceil((full_width - pixels.width) / 2)
    full = np.zeros((len(pixels.getbands()), full_height, full_width), np.uint8)
    full[:, row : row + pixels.height, column : column + pixels.width] = channel_codes(pixels)
    top, left = top + row, left + column
    return np.ascontiguousarray(full[:, max(0, top) : top + height, max(0, left) : left + width])
