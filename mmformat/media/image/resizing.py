"""Sizes that the processors resize to, and the resizing itself, in Pillow."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from PIL import Image

from mmformat.errors import MaterializeError

__all__ = [
    "MAX_RESIZED_PIXELS",
    "check_size",
    "output_size",
    "resize",
    "size_mapping",
    "smart_resize",
]

MAX_RESIZED_PIXELS: Final = 2**27
"""More pixels than any processor needs (Pillow holds 4 bytes each); a thin image could ask more."""

MAX_ASPECT_RATIO: Final = 200


def resize(image: Image.Image, height: int, width: int, *, resample: int) -> Image.Image:
    """Return the image resized as transformers' PIL backend does.

    Raises
    ------
    MaterializeError
        When the size is empty or passes ``MAX_RESIZED_PIXELS``.
    """
    check_size(height, width, of=(image.height, image.width))
    if image.size == (width, height):
        return image  # Pillow would copy it
    try:
        return image.resize((width, height), resample=Image.Resampling(resample))
    except (OSError, ValueError, SyntaxError, MemoryError) as error:
        raise MaterializeError(f"expected an image that can be resized, got: {error}") from error


def check_size(height: int, width: int, *, of: tuple[int, int]) -> None:
    """Raise unless an image can be resized to this.

    Parameters
    ----------
    of : (int, int)
        Height and width of the image.

    Raises
    ------
    MaterializeError
        When the size is empty or passes ``MAX_RESIZED_PIXELS``.
    """
    if height < 1 or width < 1 or height * width > MAX_RESIZED_PIXELS:
        raise MaterializeError(
            f"expected to resize to at most {MAX_RESIZED_PIXELS:,} pixels, got {height} x {width}",
            path="$.size",
            hint=f"the image is {of[0]} x {of[1]}",
        )


def size_mapping(value: Any, *, default_to_square: bool = True, path: str) -> dict[str, int]:
    """Return a size of a configuration (int, pair or mapping) as a mapping.

    Raises
    ------
    MaterializeError
        When it is none of these.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return {"height": value, "width": value} if default_to_square else {"shortest_edge": value}
    if isinstance(value, (list, tuple)) and len(value) == 2:
        return {"height": int(value[0]), "width": int(value[1])}
    if isinstance(value, Mapping):
        found = {key: extent for key, extent in value.items() if extent is not None}
        if found and all(type(extent) is int and extent > 0 for extent in found.values()):
            return found
    raise MaterializeError(f"expected a size, got {value!r}", path=path)


def output_size(height: int, width: int, *, size: Mapping[str, int]) -> tuple[int, int]:
    """Return the height and width that an image is resized to.

    Parameters
    ----------
    size : mapping
        ``shortest_edge`` (with or without ``longest_edge``), ``max_height`` and ``max_width``, or
        ``height`` and ``width``; the first that is there counts.

    Raises
    ------
    MaterializeError
        When none of these is there.

    References
    ----------
    transformers 5.23.0, ``PilBackend.resize``.
    """
    shortest, longest = size.get("shortest_edge"), size.get("longest_edge")
    if shortest and longest:
        return _bounded_edges(height, width, shortest, longest)
    if shortest:
        if width <= height:
            return int(shortest * height / width), shortest
        return shortest, int(shortest * width / height)
    if "max_height" in size and "max_width" in size:
        scale = min(size["max_height"] / height, size["max_width"] / width)
        return int(height * scale), int(width * scale)
    if "height" in size and "width" in size:
        return size["height"], size["width"]
    raise MaterializeError(
        f"expected height and width, max_height and max_width, or shortest_edge, got {dict(size)}",
        path="$.size",
    )


def smart_resize(
    height: int, width: int, *, factor: int, min_pixels: int, max_pixels: int
) -> tuple[int, int]:
    """Return the size nearest to the image's whose edges are multiples of ``factor``.

    Raises
    ------
    MaterializeError
        When one edge is more than 200 times the other.

    References
    ----------
    transformers 5.23.0, ``models.qwen2_vl``, ``smart_resize``.

    Examples
    --------
    >>> smart_resize(1024, 768, factor=28, min_pixels=3136, max_pixels=1003520)
    (1036, 756)
    """
    if max(height, width) / min(height, width) > MAX_ASPECT_RATIO:
        raise MaterializeError(
            f"expected an aspect ratio of at most {MAX_ASPECT_RATIO}, got {height} x {width}",
            path="$.size",
        )
    to_height = round(height / factor) * factor
    to_width = round(width / factor) * factor
    if to_height * to_width > max_pixels:
        beta = math.sqrt((height * width) / max_pixels)
        to_height = max(factor, math.floor(height / beta / factor) * factor)
        to_width = max(factor, math.floor(width / beta / factor) * factor)
    elif to_height * to_width < min_pixels:
        beta = math.sqrt(min_pixels / (height * width))
        to_height = math.ceil(height * beta / factor) * factor
        to_width = math.ceil(width * beta / factor) * factor
    return to_height, to_width


def _bounded_edges(height: int, width: int, shortest: int, longest: int) -> tuple[int, int]:
    # transformers' get_size_with_aspect_ratio, whose roundings differ from the other rule's.
    small, large = float(min(height, width)), float(max(height, width))
    raw: float = shortest
    if large / small * shortest > longest:
        raw = longest * small / large
        shortest = round(raw)
    if (height <= width and height == shortest) or (width <= height and width == shortest):
        return height, width
    if width < height:
        return int(raw * height / width), shortest
    return shortest, int(raw * width / height)
