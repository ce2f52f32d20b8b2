"""What all image processors do alike: plan from a size, and write where the caller wants it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mmformat.media.image.pixels import to_rgb
from mmformat.media.image.plan import CodesLayout, ImagePlan
from mmformat.media.image.processed import Encoding, FloatDtype, ImageLike, ProcessedImage

if TYPE_CHECKING:
    from PIL import Image

    from mmformat.media.image.normalization import Normalization

__all__ = ["PixelProcessor"]


class PixelProcessor(ABC):
    """Make pixels of an image, in two steps that a family of models fills in.

    A family says in :meth:`layout` what becomes of an image of some size, and in :meth:`write`
    resizes and cuts the bytes. Encodings, dtypes and destinations are the same for all.
    """

    __slots__ = ()

    @property
    @abstractmethod
    def normalization(self) -> Normalization:
        """From bytes to floats."""

    @property
    @abstractmethod
    def do_convert_rgb(self) -> bool:
        """Whether every mode is brought to RGB first."""

    @abstractmethod
    def layout(self, height: int, width: int, *, channels: int) -> CodesLayout:
        """Return how the bytes of an image of this size are laid out.

        Raises
        ------
        MaterializeError
            When an image of this size cannot be processed.
        """

    @abstractmethod
    def write(self, pixels: Image.Image, codes: npt.NDArray[np.uint8]) -> None:
        """Resize and cut an image into C-contiguous ``codes`` of the layout's shape."""

    def plan(
        self,
        height: int,
        width: int,
        *,
        channels: int = 3,
        encoding: Encoding | None = None,
        dtype: FloatDtype | None = None,
    ) -> ImagePlan:
        """Say what will become of an image, before a pixel of it is decoded.

        Parameters
        ----------
        height, width : int
            Of the image as it stands upright.
        channels : int, default 3
            Of the image, where it is not converted to RGB.
        encoding, dtype
            As for the call.

        Raises
        ------
        MaterializeError
            When an image of this size cannot be processed.
        """
        layout = self.layout(height, width, channels=3 if self.do_convert_rgb else channels)
        return ImagePlan.of(layout, self.normalization, encoding=encoding, dtype=dtype)

    def __call__(
        self,
        image: ImageLike,
        *,
        encoding: Encoding | None = None,
        dtype: FloatDtype | None = None,
        out: Any = None,
    ) -> ProcessedImage:
        """Process one image.

        Parameters
        ----------
        image : PIL.Image.Image or uint8 array (height, width, channels)
            Opened; upright.
        encoding : {"dictionary", "plain"}, optional
            Codes and a table, or one float an element; the normalization's own when omitted.
        dtype : {"float32", "bfloat16", "float16"}, optional
            The element type; the normalization's own when omitted.
        out : tensor, optional
            Of the ``spec`` of the image's plan, C-contiguous: the codes are written there, or the
            floats when plain. New memory when omitted.

        Raises
        ------
        MaterializeError
            When the image cannot be read, resized or cut, or ``out`` does not fit it.

        Notes
        -----
        **Copies**: beside Pillow's own images each byte once, into its place; for ``"plain"`` from
        there each float once. **Lifetime**: the feature is, or holds, ``out``.
        """
        pixels = to_rgb(image, convert=self.do_convert_rgb)
        plan = self.plan(
            pixels.height,
            pixels.width,
            channels=len(pixels.getbands()),
            encoding=encoding,
            dtype=dtype,
        )
        if out is None:
            out = plan.empty()
        codes = plan.codes_in(out)
        self.write(pixels, codes)
        return ProcessedImage(plan.finish(codes, out), plan.model_specific_data)
