"""Pillow images as a pickle holds them: mode, size and raw pixels."""

from __future__ import annotations

from typing import Any, Final

from mmformat.errors import DecodeError
from mmformat.legacy.nodes import Instance, Tensor
from mmformat.legacy.report import ConversionReport

__all__ = ["image_value"]

# Mode -> element type and bands; the modes whose raw pixels are an array of these.
_MODES: Final = {
    "L": ("uint8", 1), "P": ("uint8", 1), "RGB": ("uint8", 3), "RGBA": ("uint8", 4),
    "RGBX": ("uint8", 4), "CMYK": ("uint8", 4), "YCbCr": ("uint8", 3), "HSV": ("uint8", 3),
    "LAB": ("uint8", 3), "LA": ("uint8", 2), "PA": ("uint8", 2), "I": ("int32", 1),
    "I;16": ("uint16", 1), "F": ("float32", 1),
}  # fmt: skip
_SIZES: Final = {"uint8": 1, "uint16": 2, "int32": 4, "float32": 4}


def image_value(image: Instance, report: ConversionReport, path: str) -> Any:
    """Return the pixels as an array (height, width) or (height, width, bands).

    An image with a palette becomes a dict of ``mode``, ``pixels`` and ``palette``.

    Raises
    ------
    DecodeError
        For a state that is none of Pillow's, or a mode without whole bytes per pixel.
    """
    match image.state.get("state"):
        case [_, str() as mode, (int() as width, int() as height), palette, data, *_]:
            pass
        case _:
            raise DecodeError("expected the state of a Pillow image", path=path)
    if not isinstance(data, bytes | memoryview):
        raise DecodeError("expected the pixels of a Pillow image", path=path)
    if mode not in _MODES:
        raise DecodeError(
            f"expected a mode of {', '.join(_MODES)}, got {ascii(mode)[:12]}",
            path=path,
            code="dtype",
        )
    dtype, bands = _MODES[mode]
    view = memoryview(data)
    nbytes = width * height * bands * _SIZES[dtype]
    if width < 0 or height < 0 or view.nbytes != nbytes:
        raise DecodeError(
            f"expected {nbytes:,} bytes of pixels, got {view.nbytes:,}",
            path=path,
            code="tensor-bounds",
        )
    shape = (height, width) if bands == 1 else (height, width, bands)
    pixels = Tensor("numpy", dtype, shape, nbytes, view)
    if palette:
        report.add(path, "changed", f"{image.cls} of mode {mode} -> dict of mode, pixels, palette")
        return {"mode": mode, "pixels": pixels, "palette": palette}
    report.add(path, "changed", f"{image.cls} of mode {mode} -> array of its pixels")
    return pixels
