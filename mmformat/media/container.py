"""Open a video or audio file by what its first bytes say, with nothing else within its reach."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, Final

from mmformat._extras import require
from mmformat.errors import LimitError, MaterializeError, MMFormatError
from mmformat.media.fetch import Fetcher, open_source
from mmformat.model.source import Source

__all__ = ["ffmpeg_errors", "open_container"]

# A demuxer is named, never guessed: FFmpeg's guesses include play lists, which open other files
# and URLs.
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
    """Turn whatever FFmpeg raises into a MaterializeError that says what was expected."""
    try:
        yield
    except (MMFormatError, GeneratorExit):
        raise
    except Exception as error:
        # FFmpeg's own words; the rest of its text is a file number that means nothing here.
        reason = getattr(error, "strerror", None) or str(error)
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
