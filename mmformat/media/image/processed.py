"""What an image processor is, and what it makes of an image."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, Union

import numpy as np
import numpy.typing as npt

from mmformat.model import TensorValue

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["Encoding", "FloatDtype", "ImageLike", "ImageProcessor", "ProcessedImage"]

Encoding: TypeAlias = Literal["dictionary", "plain"]
"""How the pixels come out: codes and a table, or one float an element."""

FloatDtype: TypeAlias = Literal["float32", "bfloat16", "float16"]
"""The element type of the (expanded) pixels."""

ImageLike: TypeAlias = Union["Image.Image", "npt.NDArray[np.uint8]"]
"""An opened image, or its pixels as uint8 of shape (height, width, channels)."""


@dataclass(frozen=True, slots=True)
class ProcessedImage:
    """Hold what an image processor makes of one image.

    Parameters
    ----------
    feature : DictionaryTensor, numpy array or torch tensor
        ``pixel_values`` of the one image, in the shape that transformers gives for it.
    model_specific_data : dict
        What the model wants beside it, by transformers' names, as ``image_grid_thw``.
    """

    feature: TensorValue
    model_specific_data: dict[str, Any] = field(default_factory=dict)


class ImageProcessor(Protocol):
    """Turn one image into what a model's vision encoder reads."""

    def __call__(
        self, image: ImageLike, *, encoding: Encoding | None = None, dtype: FloatDtype | None = None
    ) -> ProcessedImage:
        """Process one image; an encoding or dtype of None is the processor's own."""
