"""Configuration values, and rescaling and normalization as a table of 256 values a channel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, TypedDict

import numpy as np
import numpy.typing as npt
from PIL import Image

from mmformat.errors import MaterializeError
from mmformat.media.image.pixels import Backend, Encoding, FloatDtype, SixteenBit, size_mapping
from mmformat.model import DictionaryTensor

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

__all__ = [
    "BACKEND_KEY",
    "CLIP_MEAN",
    "CLIP_STD",
    "DTYPE_KEY",
    "ENCODING_KEY",
    "SIXTEEN_BIT_KEY",
    "STANDARD_MEAN",
    "STANDARD_STD",
    "Normalization",
    "Settings",
]

_BYTES = np.arange(256, dtype=np.uint8)


@dataclass(frozen=True, slots=True, kw_only=True)
class Normalization:
    """Turn bytes into the floats of a model, exactly as a backend of transformers does.

    Parameters
    ----------
    rescale_factor : float or None
        What each byte is multiplied with, in float64, before it is rounded to float32; None leaves
        the bytes alone.
    mean, std : tuple of float, float, or None
        One value a channel, or one for all; None (both) does not normalize.
    encoding : {"dictionary", "plain"}
        What comes out when a call does not say: codes and a table, or one float an element.
    dtype : {"float32", "bfloat16", "float16"}
        The element type when a call does not say.
    fused : bool
        Compute in float32 with rescaling fused into the mean and std, as the torchvision backend
        does; otherwise as the PIL backend does.

    Raises
    ------
    MaterializeError
        When only one of ``mean`` and ``std`` is given, or the encoding or dtype is another.

    References
    ----------
    transformers 5.23.0, ``image_transforms.rescale`` and ``image_transforms.normalize``:
    ``(float32(float64(byte) * rescale_factor) - float32(mean)) / float32(std)``; fused:
    ``TorchvisionBackend.rescale_and_normalize``.

    Examples
    --------
    >>> half = Normalization(rescale_factor=1 / 255, mean=0.5, std=0.5)
    >>> half.table(1)[0, [0, 255]]
    array([-1.,  1.], dtype=float32)
    """

    rescale_factor: float | None = 1 / 255
    mean: tuple[float, ...] | float | None = None
    std: tuple[float, ...] | float | None = None
    encoding: Encoding = "dictionary"
    dtype: FloatDtype = "float32"
    fused: bool = False

    def __post_init__(self) -> None:
        if (self.mean is None) != (self.std is None):
            raise MaterializeError(
                f"mean and std must be given together, got {self.mean} and {self.std}",
                path="$.image_mean",
            )
        if self.encoding not in ("dictionary", "plain"):
            raise MaterializeError(
                f"expected an encoding of 'dictionary' or 'plain', got {self.encoding!r}",
                path="$.encoding",
            )
        if self.dtype not in ("float32", "bfloat16", "float16"):
            raise MaterializeError(
                f"expected a dtype of float32, bfloat16 or float16, got {self.dtype!r}",
                path="$.dtype",
            )

    @property
    def is_identity(self) -> bool:
        """Whether neither step applies, so that the pixels stay uint8."""
        return self.rescale_factor is None and self.mean is None

    def table(self, channels: int) -> npt.NDArray[np.float32]:
        """Return the float32 value of each byte, as an array (channels, 256).

        Raises
        ------
        MaterializeError
            When the mean or the std is for another number of channels.
        """
        values = np.broadcast_to(_BYTES, (channels, 256))
        scale = np.float32(1)
        if self.rescale_factor is None:
            table = values.astype(np.float32)
        elif self.fused and self.mean is not None:
            table = values.astype(np.float32)
            scale = np.float32(1.0 / self.rescale_factor)
        elif self.fused:
            table = values.astype(np.float32) * np.float32(self.rescale_factor)
        else:
            table = (values.astype(np.float64) * self.rescale_factor).astype(np.float32)
        if self.mean is not None and self.std is not None:
            mean = _column(self.mean, channels, "$.image_mean") * scale
            std = _column(self.std, channels, "$.image_std") * scale
            with np.errstate(divide="ignore", invalid="ignore"):
                table = (table - mean) / std
        return table

    def choose(self, encoding: Encoding | None, dtype: FloatDtype | None) -> Normalization:
        """Return a copy with another encoding or dtype.

        Raises
        ------
        MaterializeError
            For another encoding or dtype.
        """
        if encoding is None and dtype is None:
            return self
        return replace(self, encoding=encoding or self.encoding, dtype=dtype or self.dtype)

    def typed_table(self, channels: int) -> npt.NDArray[Any] | torch.Tensor:
        """Return the table in :attr:`dtype`, rounded to nearest, ties to even.

        Raises
        ------
        MaterializeError
            As :meth:`table`.
        """
        table = self.table(channels)
        if self.dtype == "float32":
            return table
        codes = np.empty((channels, 0), np.uint8)
        return DictionaryTensor(codes, table).to(self.dtype).table


def _column(value: tuple[float, ...] | float, channels: int, path: str) -> npt.NDArray[np.float32]:
    values: Sequence[Any] = value if isinstance(value, tuple) else [value] * channels
    if len(values) != channels:
        raise MaterializeError(
            f"expected one value per channel ({channels}), got {len(values)}", path=path
        )
    return np.array(values, dtype=np.float32)[:, None]


CLIP_MEAN: Final = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD: Final = (0.26862954, 0.26130258, 0.27577711)
STANDARD_MEAN: Final = (0.5, 0.5, 0.5)
STANDARD_STD: Final = (0.5, 0.5, 0.5)

ENCODING_KEY: Final = "mmformat.encoding"
DTYPE_KEY: Final = "mmformat.dtype"
BACKEND_KEY: Final = "mmformat.backend"
SIXTEEN_BIT_KEY: Final = "mmformat.sixteen_bit"
"""Names that no configuration of transformers has, for what the caller wants to come out."""


class PixelSettings(TypedDict):
    """The configuration that every image processor has."""

    normalization: Normalization
    resample: int
    do_convert_rgb: bool
    backend: Backend
    sixteen_bit: SixteenBit


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

    def pixels(
        self,
        *,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        resample: int = Image.Resampling.BICUBIC,
    ) -> PixelSettings:
        """Return the configuration that every image processor has."""
        return PixelSettings(
            normalization=self.normalization(mean=mean, std=std),
            resample=self.resample(resample),
            do_convert_rgb=self.flag("do_convert_rgb", True),
            backend=self._values.get(BACKEND_KEY, "auto"),
            sixteen_bit=self._values.get(SIXTEEN_BIT_KEY, "clip"),
        )

    def normalization(self, *, mean: tuple[float, ...], std: tuple[float, ...]) -> Normalization:
        """Return the normalization."""
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
