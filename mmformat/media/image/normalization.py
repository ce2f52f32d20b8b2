"""Rescaling and normalization as a table of the 256 values that a byte can become."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mmformat.errors import MaterializeError
from mmformat.media.image.processed import Encoding, FloatDtype
from mmformat.model import DictionaryTensor

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

__all__ = ["Normalization"]

_BYTES = np.arange(256, dtype=np.uint8)


@dataclass(frozen=True, slots=True, kw_only=True)
class Normalization:
    """Turn bytes into the floats of a model, exactly as transformers' PIL backend does.

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

    Raises
    ------
    MaterializeError
        When only one of ``mean`` and ``std`` is given, or the encoding or dtype is another.

    References
    ----------
    transformers 5.23.0, ``image_transforms.rescale`` and ``image_transforms.normalize``:
    ``(float32(float64(byte) * rescale_factor) - float32(mean)) / float32(std)``.

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

    def __post_init__(self) -> None:
        if (self.mean is None) != (self.std is None):
            raise MaterializeError(
                f"expected both a mean and a std, got {self.mean} and {self.std}",
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
        """Whether nothing is done, so that the pixels stay uint8."""
        return self.rescale_factor is None and self.mean is None

    def table(self, channels: int) -> npt.NDArray[np.float32]:
        """Return the float32 value of each byte, as an array (channels, 256).

        Raises
        ------
        MaterializeError
            When the mean or the std is for another number of channels.
        """
        values = np.broadcast_to(_BYTES, (channels, 256))
        if self.rescale_factor is None:
            table = values.astype(np.float32)
        else:
            table = (values.astype(np.float64) * self.rescale_factor).astype(np.float32)
        if self.mean is not None and self.std is not None:
            mean = _column(self.mean, channels, "$.image_mean")
            std = _column(self.std, channels, "$.image_std")
            with np.errstate(divide="ignore", invalid="ignore"):
                table = (table - mean) / std
        return table

    def choose(self, encoding: Encoding | None, dtype: FloatDtype | None) -> Normalization:
        """Return this normalization with what a call asks to come out.

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
            f"expected {channels} values, one a channel, got {len(values)}", path=path
        )
    return np.array(values, dtype=np.float32)[:, None]
