"""Write a picture as PNG and as a data URI, with nothing but zlib."""

from __future__ import annotations

import base64
import struct
import zlib

import numpy as np
import numpy.typing as npt

__all__ = ["data_uri", "write_png"]


def write_png(
    pixels: npt.NDArray[np.uint8], *, palette: npt.NDArray[np.uint8] | None = None
) -> bytes:
    """Return a picture as PNG.

    Parameters
    ----------
    pixels : uint8 array
        (height, width, 3) is colour; (height, width) is gray, or the palette's numbers.
    palette : uint8 array (256, 3), optional
        The colours that the numbers stand for.

    Examples
    --------
    >>> write_png(np.zeros((2, 3), np.uint8))[1:4]
    b'PNG'
    """
    height, width = pixels.shape[:2]
    colour_type = 2 if pixels.ndim == 3 else 3 if palette is not None else 0
    header = struct.pack(">IIBBBBB", width, height, 8, colour_type, 0, 0, 0)
    rows = np.ascontiguousarray(pixels).reshape(height, -1)
    # Numbers of a palette have no gradients that a filter could use.
    lines = _plain(rows) if palette is not None else _filtered(rows, 3 if pixels.ndim == 3 else 1)
    parts = [b"\x89PNG\r\n\x1a\n", _chunk(b"IHDR", header)]
    if palette is not None:
        parts.append(_chunk(b"PLTE", palette.tobytes()))
    parts += [_chunk(b"IDAT", zlib.compress(lines, 9)), _chunk(b"IEND", b"")]
    return b"".join(parts)


def data_uri(png: bytes) -> str:
    """Return a PNG as the address of a picture within the page."""
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _plain(rows: npt.NDArray[np.uint8]) -> bytes:
    return np.insert(rows, 0, 0, axis=1).tobytes()


def _filtered(rows: npt.NDArray[np.uint8], step: int) -> bytes:
    """Write each row by the filter with the least sum of differences, as libpng does."""
    here = rows.astype(np.int16)
    left, up, corner = np.zeros_like(here), np.zeros_like(here), np.zeros_like(here)
    left[:, step:] = here[:, :-step]
    up[1:] = here[:-1]
    corner[1:, step:] = here[:-1, :-step]
    guess = left + up - corner
    far_left, far_up, far_corner = abs(guess - left), abs(guess - up), abs(guess - corner)
    paeth = np.where(
        (far_left <= far_up) & (far_left <= far_corner),
        left,
        np.where(far_up <= far_corner, up, corner),
    )
    tries = np.stack([here, here - left, here - up, here - (left + up) // 2, here - paeth])
    tries = tries.astype(np.uint8)
    chosen = abs(tries.view(np.int8).astype(np.int16)).sum(axis=2).argmin(axis=0)
    lines = tries[chosen, np.arange(len(rows))]
    whole: npt.NDArray[np.uint8] = np.insert(lines, 0, chosen, axis=1)
    return whole.tobytes()
