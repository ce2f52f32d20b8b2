"""A medium that has not been decoded yet."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Final, NoReturn

from mmformat.errors import ModelError
from mmformat.model.arguments import check_callable, check_text

__all__ = ["Source"]

KINDS: Final = ("bytes", "base64", "data_url", "url", "path", "file", "image", "array", "medium")
"""What a source can hold; ``medium`` is anything that a caller's own processor understands."""

MAX_NBYTES: Final = 2**30
MAX_PIXELS: Final = 89_478_485
"""Pillow's own threshold of suspicion: 256 MiB of RGB."""

MAX_DURATION_S: Final = 3600.0

_BASE64: Final = frozenset(
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=-_\r\n\t "
)


class Source:
    """Hold an undecoded medium until it is materialized.

    Parameters
    ----------
    data : bytes, str, path, file object, PIL.Image.Image or numpy.ndarray
        The medium: encoded bytes, base64 text, a data URL, an http(s) URL, a path, an opened file
        or image, pixels as uint8 (height, width[, channels]), or samples.
    kind : {"bytes", "base64", "data_url", "url", "path", "file", "image", "array", "medium"}, \
optional
        What ``data`` is. When omitted it is told from the type. A ``str`` is a data URL when it
        begins with ``data:``, a URL with ``http://`` or ``https://``, base64 text when it has no
        character outside that alphabet, else a path. **Name the kind of any text that came from
        outside**: otherwise its sender may name a file of yours.
    fetcher : callable, optional
        ``fetcher(url) -> bytes``, called for a URL only; it may be a coroutine function for
        :func:`mmformat.materialize_async`. Without one no URL is ever opened.
    max_nbytes : int, default 1 GiB
        Bound on the encoded bytes.
    max_pixels : int, default 89,478,485
        Bound on the pixels of an image, or of one frame, checked before anything is decoded.
    max_duration_s : float, default one hour
        Bound on how long a video or a sound lasts.

    Raises
    ------
    ModelError
        For a kind that ``data`` cannot be, a bound below 1, or a fetcher that cannot be called.

    Notes
    -----
    **Copies**: none. **Lifetime**: the source keeps ``data``; a file object stays the caller's, is
    read from where it stands, and is not closed. A source cannot be encoded nor pickled:
    materialize it first.

    Examples
    --------
    >>> Source(b"...")
    Source(<3 bytes>)
    >>> Source("photo.jpg").kind, Source("/9j/4AAQ").kind, Source("/9j/4AAQ", kind="path").kind
    ('path', 'base64', 'path')
    """

    __slots__ = ("data", "fetcher", "kind", "max_duration_s", "max_nbytes", "max_pixels")

    def __init__(
        self,
        data: Any,
        *,
        kind: str | None = None,
        fetcher: Callable[[str], Any] | None = None,
        max_nbytes: int = MAX_NBYTES,
        max_pixels: int = MAX_PIXELS,
        max_duration_s: float = MAX_DURATION_S,
    ) -> None:
        for name, bound in (("max_nbytes", max_nbytes), ("max_pixels", max_pixels)):
            if type(bound) is not int or bound < 1:
                raise ModelError(f"expected a positive int, got {bound!r}", path=f"$.{name}")
        seconds: object = max_duration_s
        if not isinstance(seconds, (int, float)) or not seconds > 0:
            raise ModelError(
                f"expected seconds above 0, got {max_duration_s!r}", path="$.max_duration_s"
            )
        check_callable(fetcher, name="fetcher")
        self.data = data
        self.kind: str = _kind_of(data) if kind is None else _checked_kind(data, kind)
        self.fetcher = fetcher
        self.max_nbytes = max_nbytes
        self.max_pixels = max_pixels
        self.max_duration_s = max_duration_s

    def __repr__(self) -> str:
        if isinstance(self.data, (bytes, bytearray, memoryview)):
            return f"Source(<{len(self.data):,} bytes>)"
        if isinstance(self.data, str) and len(self.data) > 60:
            return f"Source(<{len(self.data):,} characters>)"
        if self.kind == "array":
            return f"Source(<{self.data.dtype} {self.data.shape}>)"
        if self.kind in ("path", "url", "base64", "data_url"):
            return f"Source({(os.fspath(self.data) if self.kind == 'path' else self.data)!r})"
        return f"Source(<{self.kind}>)"

    def __reduce__(self) -> NoReturn:
        # A pickled source would be decoded again by its loader: the cost this library removes.
        raise ModelError(
            "expected a materialized item, got a Source that is about to be pickled or copied",
            hint="call mmformat.materialize(inputs) first",
            code="not-materialized",
        )


def _kind_of(data: Any) -> str:
    if isinstance(data, (bytes, bytearray, memoryview)):
        return "bytes"
    if isinstance(data, str):
        return _kind_of_text(data)
    if isinstance(data, os.PathLike):
        return "path"
    if callable(getattr(data, "read", None)):
        return "file"
    # Ask the class: Pillow's property decodes the image.
    if hasattr(type(data), "__array_interface__"):
        return "image" if hasattr(data, "mode") else "array"
    raise ModelError(
        f"expected bytes, text, a path, a file, an image or an array, got {type(data).__name__}",
        path="$.data",
        hint="name it: Source(data, kind='medium') hands it to the processor as it is",
    )


def _kind_of_text(text: str) -> str:
    head = text[:8].lower()
    if head.startswith("data:"):
        return "data_url"
    if head.startswith(("http://", "https://")):
        return "url"
    if "://" in text[:16]:
        # file://, ftp:// and the rest come out of requests, not out of programs.
        raise ModelError(
            f"expected an http(s) URL, a data URL, base64 text or a path, got {text[:40]!r}",
            path="$.data",
            hint="for a local file: Source(pathlib.Path(...))",
        )
    return "base64" if text and _BASE64.issuperset(text) else "path"


_TYPES: Final[dict[str, tuple[type, ...]]] = {
    "bytes": (bytes, bytearray, memoryview),
    "base64": (str, bytes),
    "data_url": (str,),
    "url": (str,),
    "path": (str, os.PathLike),
}


def _checked_kind(data: Any, kind: str) -> str:
    check_text(kind, KINDS, name="kind")
    types = _TYPES.get(kind)
    if types is not None:
        if not isinstance(data, types):
            names = ", ".join(each.__name__ for each in types)
            raise ModelError(
                f"expected {names} for {kind}, got {type(data).__name__}", path="$.data"
            )
        if kind in ("data_url", "url") and _kind_of_text(str(data)) != kind:
            expected = "a data URL" if kind == "data_url" else "an http(s) URL"
            raise ModelError(f"expected {expected}, got {str(data)[:40]!r}", path="$.data")
    elif kind != "medium" and _kind_of(data) != kind:
        raise ModelError(f"expected a {kind}, got {type(data).__name__}", path="$.data")
    return kind
