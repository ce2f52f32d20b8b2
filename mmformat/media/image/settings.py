"""Read the values of a preprocessor_config.json, each with the default of transformers' class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, TypedDict

from PIL import Image

from mmformat.errors import MaterializeError
from mmformat.media.image.normalization import Normalization
from mmformat.media.image.resizing import size_mapping

__all__ = [
    "CLIP_MEAN",
    "CLIP_STD",
    "DTYPE_KEY",
    "ENCODING_KEY",
    "STANDARD_MEAN",
    "STANDARD_STD",
    "Settings",
]

CLIP_MEAN: Final = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD: Final = (0.26862954, 0.26130258, 0.27577711)
STANDARD_MEAN: Final = (0.5, 0.5, 0.5)
STANDARD_STD: Final = (0.5, 0.5, 0.5)

ENCODING_KEY: Final = "mmformat.encoding"
DTYPE_KEY: Final = "mmformat.dtype"
"""Names that no configuration of transformers has, for what the caller wants to come out."""


class PixelSettings(TypedDict):
    """Hold what every image processor is configured with."""

    normalization: Normalization
    resample: int
    do_convert_rgb: bool


class Settings:
    """Read typed values by name; a value that is absent or null takes the default.

    Parameters
    ----------
    values : mapping
        The configuration, as parsed from JSON.

    Raises
    ------
    MaterializeError
        From each method, when the value is of another type; the path names it.

    Examples
    --------
    >>> Settings({"patch_size": 16}).integer("patch_size", 14)
    16
    """

    __slots__ = ("_values",)

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = values

    def get(self, name: str) -> Any:
        """Return the value, or None."""
        return self._values.get(name)

    def flag(self, name: str, default: bool) -> bool:
        """Return a bool."""
        value = self._values.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise MaterializeError(f"expected a bool, got {value!r}", path=f"$.{name}")
        return value

    def integer(self, name: str, default: int) -> int:
        """Return a positive int."""
        value = self._values.get(name)
        if value is None:
            return default
        if type(value) is not int or value < 1:
            raise MaterializeError(f"expected a positive int, got {value!r}", path=f"$.{name}")
        return value

    def mapping(self, name: str) -> dict[str, int]:
        """Return a size that must be a mapping; empty when absent."""
        value = self._values.get(name)
        if value is None:
            return {}
        if not isinstance(value, Mapping):
            raise MaterializeError(f"expected a mapping, got {value!r}", path=f"$.{name}")
        return size_mapping(value, path=f"$.{name}")

    def size(
        self, name: str, default: Mapping[str, int], *, default_to_square: bool = True
    ) -> dict[str, int]:
        """Return a size as a mapping."""
        value = self._values.get(name)
        if value is None:
            return dict(default)
        square = default_to_square
        if name == "size":
            square = self.flag("default_to_square", default_to_square)
        return size_mapping(value, default_to_square=square, path=f"$.{name}")

    def pixels(self, *, mean: tuple[float, ...], std: tuple[float, ...]) -> PixelSettings:
        """Return what every image processor is configured with."""
        return PixelSettings(
            normalization=self.normalization(mean=mean, std=std),
            resample=self.resample(Image.Resampling.BICUBIC),
            do_convert_rgb=self.flag("do_convert_rgb", True),
        )

    def normalization(self, *, mean: tuple[float, ...], std: tuple[float, ...]) -> Normalization:
        """Return the way from bytes to floats."""
        rescale = self._values.get("rescale_factor")
        normalize = self.flag("do_normalize", True)
        return Normalization(
            rescale_factor=(
                (1 / 255 if rescale is None else _number(rescale, "$.rescale_factor"))
                if self.flag("do_rescale", True)
                else None
            ),
            mean=self.numbers("image_mean", mean) if normalize else None,
            std=self.numbers("image_std", std) if normalize else None,
            encoding=self._values.get(ENCODING_KEY, "dictionary"),
            dtype=self._values.get(DTYPE_KEY, "float32"),
        )

    def resample(self, default: int) -> int:
        """Return Pillow's number of a resampling filter."""
        value = self._values.get("resample")
        if value is None:
            return int(default)
        try:
            return int(Image.Resampling(value))
        except ValueError as error:
            raise MaterializeError(
                f"expected a resampling filter of Pillow, got {value!r}", path="$.resample"
            ) from error

    def numbers(self, name: str, default: tuple[float, ...]) -> tuple[float, ...] | float:
        """Return a number, or a tuple of them."""
        value = self._values.get(name)
        if value is None:
            return default
        if isinstance(value, (list, tuple)):
            return tuple(_number(each, f"$.{name}[{i}]") for i, each in enumerate(value))
        return _number(value, f"$.{name}")


def _number(value: Any, path: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise MaterializeError(f"expected a number, got {value!r}", path=path)
    return float(value)
