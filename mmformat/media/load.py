"""Open a source as an image, with every bound checked before a pixel is decoded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, BinaryIO, Final

import numpy as np

from mmformat._extras import require
from mmformat.errors import LimitError, MaterializeError, MMFormatError
from mmformat.media.fetch import Fetcher, open_source
from mmformat.model.source import Source

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["IMAGE_FORMATS", "OpenedImage", "load_image", "open_image"]

IMAGE_FORMATS: Final = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM")
"""The formats that are opened. Pillow knows more, and one of them (EPS) starts another program."""

ORIENTATION: Final = 0x0112
"""The EXIF tag of how the camera was held; 1 is upright, from 5 on width and height change."""


def load_image(source: Source, *, fetcher: Fetcher | None = None, path: str = "$") -> Image:
    """Decode a source to an image that stands upright; its colour mode is left as it is.

    Parameters
    ----------
    source : Source
        Of any kind but ``medium``. An array is uint8 (height, width), (height, width, 1, 3 or 4)
        or (3, height, width).
    fetcher : callable, optional
        Used for a URL when the source has none of its own.
    path : str
        Where the source stands; errors name it.

    Returns
    -------
    PIL.Image.Image
        Decoded; the first frame of an animation. The orientation that a camera noted is applied.

    Raises
    ------
    LimitError
        When the image has more pixels than ``source.max_pixels``, or its file more bytes than
        ``source.max_nbytes``; nothing was decoded.
    MaterializeError
        When the bytes are no image of :data:`IMAGE_FORMATS`, or not a whole one.
    MissingExtraError
        When Pillow is not installed.

    Notes
    -----
    **Copies**: the pixels of an array, once; an image that was given is returned as it is when it
    has no orientation to apply.
    """
    opened = open_image(source, fetcher=fetcher, path=path)
    try:
        return opened.load()
    finally:
        opened.close()


def open_image(source: Source, *, fetcher: Fetcher | None = None, path: str = "$") -> OpenedImage:
    """Open a source, and decode nothing of it; what cannot be opened or is too large is refused.

    Parameters
    ----------
    source, fetcher, path
        As for :func:`load_image`.

    Raises
    ------
    LimitError, MaterializeError, MissingExtraError
        As :func:`load_image`, but for what only the pixels can tell.
    """
    pillow = require("PIL.Image", extra="media")
    file = None
    if source.kind == "image":
        image: Image = source.data
    elif source.kind == "array":
        _check_pixels(_extent_of(source.data, path), source, path)
        image = _image_of_array(pillow, source.data, path)
    else:
        file = open_source(source, fetcher=fetcher, path=path)
        try:
            with _readable(source, path):
                image = pillow.open(file, formats=IMAGE_FORMATS)
                _check_pixels(image.size, source, path)
        except BaseException:
            file.close()
            raise
    _check_pixels(image.size, source, path)
    return OpenedImage(image, source, file=file, path=path)


class OpenedImage:
    """Hold an image whose header was read; its pixels are decoded when they are asked for.

    Made by :func:`open_image`.
    """

    __slots__ = ("_file", "_image", "_path", "_source")

    def __init__(self, image: Image, source: Source, *, file: BinaryIO | None, path: str) -> None:
        self._image = image
        self._source = source
        self._file = file
        self._path = path

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the image when it stands upright.

        Notes
        -----
        **Cost**: a PNG that says nothing of its orientation before its pixels is decoded here, and
        so is a TIFF that lies on its side.
        """
        with _readable(self._source, self._path):
            turned = self._image.getexif().get(ORIENTATION, 1) in (5, 6, 7, 8)
            if turned and self._image.format == "TIFF":
                # Pillow turns these by itself, and its versions differ in when the size says so.
                self._image.load()
                turned = self._image.getexif().get(ORIENTATION, 1) in (5, 6, 7, 8)
        width, height = self._image.size
        return (width, height) if turned else (height, width)

    @property
    def channels(self) -> int:
        """How many channels the image has as it is, a palette's indices being one."""
        return len(self._image.getbands())

    def load(self) -> Image:
        """Decode the image, and put it upright.

        Raises
        ------
        LimitError, MaterializeError
            As :func:`load_image`.
        """
        if self._file is not None:
            with _readable(self._source, self._path):
                self._image.load()
        return _decoded(self._image, self._path)

    def close(self) -> None:
        """Close the file; what was decoded stays."""
        if self._file is not None:
            self._file.close()


@contextmanager
def _readable(source: Source, path: str) -> Iterator[None]:
    """Turn whatever Pillow raises into an error that says what was expected."""
    pillow = require("PIL.Image", extra="media")
    try:
        yield
    except MMFormatError:
        raise
    except (pillow.DecompressionBombError, pillow.DecompressionBombWarning) as error:
        raise LimitError(
            f"expected an image within Pillow's own bound, got: {error}",
            path=path,
            hint="PIL.Image.MAX_IMAGE_PIXELS is stricter than Source(..., max_pixels=...)",
        ) from error
    except Exception as error:
        raise MaterializeError(
            f"expected an image ({', '.join(IMAGE_FORMATS)}), got {source!r}: {error}", path=path
        ) from error


def _decoded(image: Image, path: str) -> Image:
    from PIL import ImageOps

    try:
        image.load()
        # As transformers' load_image does.
        if image.getexif().get(ORIENTATION, 1) != 1:
            image = ImageOps.exif_transpose(image)
    except Exception as error:
        raise MaterializeError(f"expected a whole image, got: {error}", path=path) from error
    return image


def _extent_of(array: Any, path: str) -> tuple[int, int]:
    if array.dtype != np.uint8 or array.ndim not in (2, 3):
        raise MaterializeError(
            f"expected pixels of uint8 (height, width[, channels]), got {array.dtype} "
            f"{tuple(array.shape)}",
            path=path,
        )
    if array.ndim == 3 and array.shape[2] not in (1, 3, 4):
        if array.shape[0] != 3:
            raise MaterializeError(
                f"expected 1, 3 or 4 channels, got shape {tuple(array.shape)}", path=path
            )
        return array.shape[2], array.shape[1]
    return array.shape[1], array.shape[0]


def _image_of_array(pillow: Any, array: Any, path: str) -> Image:
    pixels = np.asarray(array)
    if 0 in pixels.shape:
        raise MaterializeError(f"expected pixels, got shape {pixels.shape}", path=path)
    if pixels.ndim == 3 and pixels.shape[2] not in (1, 3, 4):
        pixels = pixels.transpose(1, 2, 0)
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    image: Image = pillow.fromarray(np.ascontiguousarray(pixels))
    return image


def _check_pixels(size: tuple[int, int], source: Source, path: str) -> None:
    width, height = size
    if width * height > source.max_pixels:
        raise LimitError(
            f"expected at most {source.max_pixels:,} pixels, got {width:,} x {height:,}",
            path=path,
            hint="if you trust the sender: Source(..., max_pixels=...)",
        )
