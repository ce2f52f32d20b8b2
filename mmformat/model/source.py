"""A medium that has not been decoded yet."""

from __future__ import annotations

from typing import Any

__all__ = ["Source"]


class Source:
    """Hold an undecoded medium until it is materialized.

    Parameters
    ----------
    data : bytes, str, path, file object, PIL.Image.Image or numpy.ndarray
        The medium: encoded bytes, base64 text, a data URL, a path, an opened image, pixels.

    Notes
    -----
    **Copies**: none. A source cannot be encoded: materialize it first.

    Examples
    --------
    >>> Source(b"...")
    Source(<3 bytes>)
    """

    __slots__ = ("data",)

    def __init__(self, data: Any) -> None:
        self.data = data

    def __repr__(self) -> str:
        if isinstance(self.data, (bytes, bytearray, memoryview)):
            return f"Source(<{len(self.data):,} bytes>)"
        if isinstance(self.data, str) and len(self.data) > 60:
            return f"Source(<{len(self.data):,} characters>)"
        return f"Source({self.data!r})"
