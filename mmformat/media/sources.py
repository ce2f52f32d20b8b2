"""Open a source: its encoded bytes, its image, or its audio and video container."""

from __future__ import annotations

import base64
import binascii
import inspect
import io
import logging
import os
import re
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, BinaryIO, Final, TypeAlias
from urllib.parse import unquote_to_bytes

import numpy as np

from mmformat._extras import require
from mmformat.errors import LimitError, MaterializeError, MMFormatError
from mmformat.model.source import Source

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = [
    "IMAGE_FORMATS",
    "Fetcher",
    "OpenedImage",
    "ffmpeg_errors",
    "load_image",
    "open_container",
    "open_image",
    "open_source",
    "read_source",
    "reason_of",
]

Fetcher: TypeAlias = Callable[[str], Any]
"""``fetcher(url) -> bytes``; only :func:`mmformat.materialize_async` awaits a coroutine."""


_OBJECT: Final = re.compile(r" ?<[^<>]*(?:\b0x[0-9a-fA-F]+|\bname=)[^<>]*>| ?\b0x[0-9a-fA-F]{8,}\b")


def reason_of(error: BaseException) -> str:
    """Return the text of another library's exception, without reprs and addresses of objects.

    Examples
    --------
    >>> reason_of(ValueError(f"cannot identify image file {io.BytesIO()!r}"))
    'cannot identify image file'
    """
    return _OBJECT.sub("", str(error)) or type(error).__name__


def read_source(source: Source, *, fetcher: Fetcher | None = None, path: str = "$") -> bytes:
    """Return the encoded bytes of a source.

    Parameters
    ----------
    source : Source
        Of any kind but ``image``, ``array`` and ``medium``.
    fetcher : callable, optional
        Used for a URL when the source has none of its own.
    path : str
        Where the source stands; errors name it.

    Raises
    ------
    LimitError
        When there are more bytes than ``source.max_nbytes``; no more than those were read.
    MaterializeError
        When the bytes cannot be read.

    Notes
    -----
    **Copies**: none of ``bytes``; else one.
    """
    with open_source(source, fetcher=fetcher, path=path) as file:
        if isinstance(file, io.BytesIO):
            return file.getvalue()  # shares the bytes until somebody writes
        try:
            data = file.read(source.max_nbytes + 1)
        except Exception as error:
            raise _unreadable(source, error, path) from error
        _check_nbytes(len(data), source, path)
        return _as_bytes(data, path)


def open_source(source: Source, *, fetcher: Fetcher | None = None, path: str = "$") -> BinaryIO:
    """Return a seekable binary file over the encoded bytes of a source; the caller closes it.

    Raises
    ------
    LimitError
        When there are more bytes than ``source.max_nbytes``.
    MaterializeError
        When the bytes cannot be read.

    Notes
    -----
    **Copies**: none of ``bytes`` and of a regular file, which is read as it is needed.
    """
    if source.kind == "path":
        return _open_path(source, path)
    if source.kind == "file":
        try:
            data = source.data.read(source.max_nbytes + 1)
        except Exception as error:
            raise _unreadable(source, error, path) from error
    elif source.kind == "base64":
        data = _from_base64(source.data, source, path)
    elif source.kind == "data_url":
        data = _from_data_url(source.data, source, path)
    elif source.kind == "url":
        data = _from_fetcher(source, fetcher, path)
    elif source.kind == "bytes":
        data = source.data
    else:
        raise MaterializeError(f"a source of kind {source.kind!r} has no encoded bytes", path=path)
    _check_nbytes(len(data), source, path)
    return io.BytesIO(_as_bytes(data, path))


def _as_bytes(data: Any, path: str) -> bytes:
    if isinstance(data, bytes):
        return data
    if isinstance(data, (bytearray, memoryview)):
        return bytes(data)
    raise MaterializeError(
        f"expected bytes, got {type(data).__name__}",
        path=path,
        hint="open files in binary mode",
    )


def _open_path(source: Source, path: str) -> BinaryIO:
    # A FIFO or a device could block or never end, so check before the first read.
    try:
        descriptor = os.open(source.data, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        raise _unreadable(source, error, path) from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise MaterializeError(
                f"expected a regular file, got {os.fspath(source.data)!r}", path=path
            )
        _check_nbytes(status.st_size, source, path)
    except BaseException:
        os.close(descriptor)
        raise
    return os.fdopen(descriptor, "rb")


def _from_base64(text: str | bytes, source: Source, path: str) -> bytes:
    if len(text) > source.max_nbytes * 2:  # 4/3, and white space
        _check_nbytes(len(text) * 3 // 4, source, path)
    raw = text.encode("ascii", "replace") if isinstance(text, str) else text
    raw = raw.translate(bytes.maketrans(b"-_", b"+/"), b"\r\n\t ")
    try:
        return base64.b64decode(raw + b"=" * (-len(raw) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise MaterializeError(
            f"expected base64 text, got {len(text):,} characters: {reason_of(error)}",
            path=path,
            hint="for a path: Source(pathlib.Path(...)) or kind='path'",
        ) from error


def _from_data_url(url: str, source: Source, path: str) -> bytes:
    head, comma, body = url.partition(",")
    if not comma:
        raise MaterializeError("the data URL has no comma", path=path)
    if head.lower().endswith(";base64"):
        return _from_base64(body, source, path)
    if len(body) > source.max_nbytes * 3:  # each byte may take three characters
        _check_nbytes(len(body) // 3, source, path)
    return unquote_to_bytes(body)


def _from_fetcher(source: Source, fetcher: Fetcher | None, path: str) -> Any:
    chosen = source.fetcher or fetcher
    if chosen is None:
        raise MaterializeError(
            "a URL needs a fetcher; no request was made",
            path=path,
            hint="pass fetcher=, as lambda url: httpx.get(url).content",
            code="no-fetcher",
        )
    try:
        data = chosen(source.data)
    except MMFormatError:
        raise
    except Exception as error:
        raise _unreadable(source, error, path) from error
    if inspect.isawaitable(data):
        if inspect.iscoroutine(data):
            data.close()
        raise MaterializeError(
            "the fetcher returned an awaitable instead of bytes",
            path=path,
            hint="use await mmformat.materialize_async(...)",
        )
    return data


def _check_nbytes(nbytes: int, source: Source, path: str) -> None:
    if nbytes > source.max_nbytes:
        raise LimitError(
            f"expected at most {source.max_nbytes:,} bytes of media, got {nbytes:,} or more",
            path=path,
            hint="if you trust the sender: Source(..., max_nbytes=...)",
        )


def _unreadable(source: Source, error: Exception, path: str) -> MaterializeError:
    return MaterializeError(
        f"cannot read {source!r}: {type(error).__name__}: {reason_of(error)}", path=path
    )


IMAGE_FORMATS: Final = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM")
"""The formats that are opened. Pillow knows more, and one of them (EPS) starts another program."""

ORIENTATION: Final = 0x0112
"""The EXIF tag of how the camera was held; 1 is upright, from 5 on width and height change."""


def load_image(source: Source, *, fetcher: Fetcher | None = None, path: str = "$") -> Image:
    """Decode a source to an upright image; its colour mode is kept.

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
    """Open a source as an image and check its size; no pixel is decoded.

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
    """An image whose header was read; its pixels are decoded by :meth:`load`.

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
        """Height and width of the upright image.

        Notes
        -----
        **Cost**: a PNG that says nothing of its orientation before its pixels is decoded here, and
        so is a TIFF that lies on its side.
        """
        with _readable(self._source, self._path):
            turned = self._image.getexif().get(ORIENTATION, 1) in (5, 6, 7, 8)
            if turned and self._image.format == "TIFF":
                # Pillow rotates these itself; its versions differ in when the size reflects that.
                self._image.load()
                turned = self._image.getexif().get(ORIENTATION, 1) in (5, 6, 7, 8)
        width, height = self._image.size
        return (width, height) if turned else (height, width)

    @property
    def channels(self) -> int:
        """The number of channels as stored; palette indices are one channel."""
        return len(self._image.getbands())

    def load(self) -> Image:
        """Decode the image, and apply its orientation.

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
        """Close the file; a decoded image stays valid."""
        if self._file is not None:
            self._file.close()


class _Truncation:
    """Keep ``PIL.ImageFile.LOAD_TRUNCATED_IMAGES`` false while an image is decoded here.

    With that global of Pillow set, which some libraries do on import, the missing part of an image
    is grey and no error is raised. Pillow has no other switch.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._value = False

    @contextmanager
    def refused(self) -> Iterator[None]:
        file: Any = require("PIL.ImageFile", extra="media")
        with self._lock:
            if self._users == 0 or file.LOAD_TRUNCATED_IMAGES:
                self._value = file.LOAD_TRUNCATED_IMAGES
            file.LOAD_TRUNCATED_IMAGES = False
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if self._users == 0:
                    file.LOAD_TRUNCATED_IMAGES = self._value


_TRUNCATION: Final = _Truncation()


@contextmanager
def _readable(source: Source, path: str) -> Iterator[None]:
    """Turn exceptions of Pillow into ours; an incomplete image is an error in any case."""
    pillow = require("PIL.Image", extra="media")
    try:
        with _TRUNCATION.refused():
            yield
    except MMFormatError:
        raise
    except (pillow.DecompressionBombError, pillow.DecompressionBombWarning) as error:
        raise LimitError(
            f"the image exceeds Pillow's own limit: {reason_of(error)}",
            path=path,
            hint="PIL.Image.MAX_IMAGE_PIXELS is stricter than Source(..., max_pixels=...)",
        ) from error
    except Exception as error:
        raise MaterializeError(
            f"cannot open {source!r} as an image ({', '.join(IMAGE_FORMATS)}): {reason_of(error)}",
            path=path,
        ) from error


def _decoded(image: Image, path: str) -> Image:
    from PIL import ImageOps

    try:
        with _TRUNCATION.refused():
            image.load()
        # As transformers' load_image does.
        if image.getexif().get(ORIENTATION, 1) != 1:
            image = ImageOps.exif_transpose(image)
    except Exception as error:
        raise MaterializeError(
            f"the image is incomplete or damaged: {reason_of(error)}", path=path
        ) from error
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
        raise MaterializeError(f"the array has no pixels: shape {pixels.shape}", path=path)
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


# FFmpeg must not guess the demuxer: its guesses include play lists, which open other files and
# URLs.
_DEMUXERS: Final = (
    (4, b"ftyp", "mp4"),
    (4, b"moov", "mp4"),
    (4, b"mdat", "mp4"),
    (4, b"wide", "mp4"),
    (4, b"free", "mp4"),
    (0, b"\x1aE\xdf\xa3", "matroska"),
    (8, b"AVI ", "avi"),
    (8, b"WAVE", "wav"),
    (8, b"AIFF", "aiff"),
    (8, b"AIFC", "aiff"),
    (0, b"OggS", "ogg"),
    (0, b"fLaC", "flac"),
    (0, b"FLV\x01", "flv"),
    (0, b"\x00\x00\x01\xba", "mpeg"),
    (0, b"G", "mpegts"),
    (0, b"ID3", "mp3"),
    (0, b"\xff\xf1", "aac"),
    (0, b"\xff\xf9", "aac"),
    (0, b"\xff\xfb", "mp3"),
    (0, b"\xff\xf3", "mp3"),
    (0, b"\xff\xf2", "mp3"),
    (0, b"\xff\xfa", "mp3"),
    (0, b"\xff\xe3", "mp3"),  # MPEG-2.5: 8, 11.025 and 12 kHz
    (0, b"\xff\xe2", "mp3"),
)
_TS_PACKET_NBYTES: Final = 188

logging.getLogger("libav").addHandler(logging.NullHandler())


@contextmanager
def open_container(
    source: Source, *, fetcher: Fetcher | None = None, path: str = "$"
) -> Iterator[Any]:
    """Yield the PyAV container of a source, and close it with the file that it reads.

    Raises
    ------
    LimitError
        When there are more bytes than ``source.max_nbytes``, or the file says that it lasts longer
        than ``source.max_duration_s``.
    MaterializeError
        When the bytes are of no known container, or broken.
    MissingExtraError
        When PyAV is not installed.

    Notes
    -----
    **Copies**: none of a path's bytes, which are read as they are needed.
    """
    av = require("av", extra="media")
    with open_source(source, fetcher=fetcher, path=path) as file:
        demuxer = _demuxer_of(file, source, path)
        with ffmpeg_errors(f"a whole file of {demuxer}", path):
            container = av.open(file, mode="r", format=demuxer, metadata_errors="replace")
        try:
            if container.duration is not None:
                check_duration(container.duration / av.time_base, source, path)
            yield container
        finally:
            container.close()


def check_duration(duration_s: float, source: Source, path: str) -> None:
    """Raise LimitError when a medium lasts longer than its source allows."""
    if duration_s > source.max_duration_s:
        raise LimitError(
            f"expected at most {source.max_duration_s:,.0f} s of media, got {duration_s:,.0f} s",
            path=path,
            hint="if you trust the sender: Source(..., max_duration_s=...)",
        )


@contextmanager
def ffmpeg_errors(what: str, path: str) -> Iterator[None]:
    """Turn exceptions of FFmpeg into MaterializeError."""
    try:
        yield
    except (MMFormatError, GeneratorExit):
        raise
    except Exception as error:
        # Only FFmpeg's reason; the rest of its text names an internal file object.
        reason = getattr(error, "strerror", None) or reason_of(error)
        raise MaterializeError(
            f"expected {what}, got {type(error).__name__}: {reason}", path=path
        ) from error


def _demuxer_of(file: BinaryIO, source: Source, path: str) -> str:
    head = file.read(2 * _TS_PACKET_NBYTES)
    file.seek(0)
    for offset, magic, name in _DEMUXERS:
        if head[offset : offset + len(magic)] == magic and (
            name != "mpegts" or head[_TS_PACKET_NBYTES : _TS_PACKET_NBYTES + 1] == b"G"
        ):
            return name
    raise MaterializeError(
        f"expected a video or audio file, got {source!r} that begins with {head[:8]!r}", path=path
    )
