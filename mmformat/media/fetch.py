"""The encoded bytes behind a source: from memory, text, a file, or the caller's own fetcher."""

from __future__ import annotations

import base64
import binascii
import inspect
import io
import os
import stat
from collections.abc import Callable
from typing import Any, BinaryIO, TypeAlias
from urllib.parse import unquote_to_bytes

from mmformat.errors import LimitError, MaterializeError, MMFormatError
from mmformat.model.source import Source

__all__ = ["Fetcher", "open_source", "read_source"]

Fetcher: TypeAlias = Callable[[str], Any]
"""``fetcher(url) -> bytes``; only :func:`mmformat.materialize_async` awaits a coroutine."""


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
        When the bytes cannot be had.

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
        When the bytes cannot be had.

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
        raise MaterializeError(
            f"expected a source with encoded bytes, got one of kind {source.kind!r}", path=path
        )
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
    # A FIFO or a device would block or never end, so look before the first read.
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
            f"expected base64 text, got {len(text):,} characters: {error}",
            path=path,
            hint="for a path: Source(pathlib.Path(...)) or kind='path'",
        ) from error


def _from_data_url(url: str, source: Source, path: str) -> bytes:
    head, comma, body = url.partition(",")
    if not comma:
        raise MaterializeError("expected a data URL with a comma, got none", path=path)
    if head.lower().endswith(";base64"):
        return _from_base64(body, source, path)
    if len(body) > source.max_nbytes * 3:  # each byte may take three characters
        _check_nbytes(len(body) // 3, source, path)
    return unquote_to_bytes(body)


def _from_fetcher(source: Source, fetcher: Fetcher | None, path: str) -> Any:
    chosen = source.fetcher or fetcher
    if chosen is None:
        raise MaterializeError(
            "expected a fetcher for an http(s) URL, got none; no request was made",
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
            "expected bytes from the fetcher, got an awaitable",
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
        f"expected to read {source!r}, got {type(error).__name__}: {error}", path=path
    )
