"""The base class of image processors: plan from a size, then write codes into place."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self, cast

import numpy as np
import numpy.typing as npt
from PIL import Image

from mmformat.errors import MaterializeError
from mmformat.media.image.normalization import CLIP_MEAN, CLIP_STD, Normalization
from mmformat.media.image.pixels import (
    SIXTEEN_BIT,
    Backend,
    Encoding,
    FloatDtype,
    ImageLike,
    Pixels,
    SixteenBit,
    opened_pixels,
    resolve_backend,
)
from mmformat.model import DictionaryTensor, TensorValue
from mmformat.model.dictionary import expanded_shape
from mmformat.model.tensors import TensorSpec, is_torch, numpy_dtype, tensor_spec, torch_dtype

if TYPE_CHECKING:
    import torch
    from PIL import Image


__all__ = [
    "CodesLayout",
    "Encoding",
    "FloatDtype",
    "ImageLike",
    "ImagePlan",
    "ImageProcessor",
    "PixelProcessor",
    "ProcessedImage",
]


@dataclass(frozen=True, slots=True)
class ProcessedImage:
    """The output of an image processor for one image.

    Parameters
    ----------
    feature : DictionaryTensor, numpy array or torch tensor
        ``pixel_values`` of the one image, in the shape that transformers gives for it.
    model_specific_data : dict
        The other model inputs, by transformers' names, as ``image_grid_thw``.
    """

    feature: TensorValue
    model_specific_data: dict[str, Any] = field(default_factory=dict)


class ImageProcessor(Protocol):
    """Turn one image into what a model's vision encoder reads."""

    def __call__(
        self, image: ImageLike, *, encoding: Encoding | None = None, dtype: FloatDtype | None = None
    ) -> ProcessedImage:
        """Process one image; an encoding or dtype of None is the processor's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CodesLayout:
    """How a processor lays out the bytes of an image.

    Parameters
    ----------
    codes : tuple of int
        The shape of the bytes, with their channels on ``axis``.
    axis, repeat_axis, repeat, shape
        As of :class:`mmformat.DictionaryTensor`.
    always_float : bool
        Turn bytes into floats even where there is nothing to rescale or normalize; otherwise they
        stay uint8, as transformers leaves them.
    model_specific_data : dict
        The other model inputs.
    """

    codes: tuple[int, ...]
    axis: int
    repeat_axis: int = 0
    repeat: int = 1
    shape: tuple[int, ...] | None = None
    always_float: bool = False
    model_specific_data: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImagePlan:
    """What a processor will write, known from the size of the image alone.

    Made by the ``plan`` of an image processor.

    Parameters
    ----------
    layout : CodesLayout
        Where the bytes are written.
    table : float tensor (channels, 256), or None
        The value of each byte; None keeps the bytes.
    is_plain : bool
        Whether floats are written instead of codes and a table.

    Examples
    --------
    >>> from mmformat.media.image import QwenVLImageProcessor
    >>> plan = QwenVLImageProcessor().plan(1024, 768)
    >>> plan.spec, plan.model_specific_data["image_grid_thw"].tolist()
    (TensorSpec(dtype='uint8', shape=(3996, 3, 14, 14)), [[1, 74, 54]])
    """

    layout: CodesLayout
    table: npt.NDArray[Any] | torch.Tensor | None
    is_plain: bool

    @classmethod
    def of(
        cls,
        layout: CodesLayout,
        normalization: Normalization,
        *,
        encoding: Encoding | None,
        dtype: FloatDtype | None,
    ) -> Self:
        """Return the plan of a layout; an encoding or dtype of None is the normalization's own.

        Raises
        ------
        MaterializeError
            For another encoding or dtype, or a mean for another number of channels.
        """
        chosen = normalization.choose(encoding, dtype)
        floats = layout.always_float or not chosen.is_identity
        return cls(
            layout=layout,
            table=chosen.typed_table(layout.codes[layout.axis]) if floats else None,
            is_plain=floats and chosen.encoding == "plain",
        )

    @property
    def spec(self) -> TensorSpec:
        """The tensor to be written: bytes, or floats when plain."""
        layout = self.layout
        if self.table is not None and not self.is_plain:
            return TensorSpec("uint8", layout.codes)
        dtype = "uint8" if self.table is None else tensor_spec(self.table).dtype
        return TensorSpec(dtype, layout.shape or self._repeated_shape)

    @property
    def _repeated_shape(self) -> tuple[int, ...]:
        layout = self.layout
        return expanded_shape(layout.codes, repeat_axis=layout.repeat_axis, repeat=layout.repeat)

    @property
    def library(self) -> Literal["torch", "numpy"]:
        """The library of the tensor: torch for plain bfloat16, which numpy lacks."""
        return "torch" if self.is_plain and is_torch(self.table) else "numpy"

    @property
    def model_specific_data(self) -> dict[str, Any]:
        """The other model inputs."""
        return self.layout.model_specific_data

    def empty(self) -> Any:
        """Return new memory of :attr:`spec`."""
        spec = self.spec
        if self.library == "torch":
            import torch

            return torch.empty(spec.shape, dtype=torch_dtype(spec.dtype))
        return np.empty(spec.shape, numpy_dtype(spec.dtype))

    def codes_in(self, out: Any) -> npt.NDArray[np.uint8]:
        """Return where to write the bytes: ``out`` itself, or new memory when it is plain.

        Raises
        ------
        MaterializeError
            When ``out`` is no contiguous tensor of :attr:`spec`.
        """
        contiguous = out.is_contiguous() if is_torch(out) else out.flags.c_contiguous
        if tensor_spec(out) != self.spec or not contiguous:
            raise MaterializeError(
                f"expected a contiguous destination of {self.spec}, got {tensor_spec(out)}",
                path="$.out",
            )
        if self.spec == ("uint8", self.layout.codes):
            codes: npt.NDArray[np.uint8] = out.numpy() if is_torch(out) else out
            return codes
        return np.empty(self.layout.codes, np.uint8)

    def feature(self, out: Any) -> TensorValue:
        """Return the feature that refers to ``out``, which may be written later."""
        if self.table is None or self.is_plain:
            feature: TensorValue = out
            return feature
        return self._dictionary(out)

    def finish(self, codes: npt.NDArray[np.uint8], out: Any = None) -> TensorValue:
        """Return the feature of the written bytes.

        Parameters
        ----------
        codes : uint8 array
            The bytes.
        out : tensor, optional
            What :meth:`codes_in` was given; new memory when omitted.

        Notes
        -----
        **Copies**: none but the floats of a plain feature, each written once.
        """
        if self.is_plain:
            return self._dictionary(codes).expand(self.empty() if out is None else out)
        if self.table is None and self.spec.shape != codes.shape:
            made: Any = self.empty() if out is None else out
            repeated = np.expand_dims(codes, self.layout.repeat_axis)
            target = made.numpy() if is_torch(made) else made
            target.reshape(self._repeated_shape)[...] = repeated
            return cast("TensorValue", made)
        return self.feature(codes if out is None else out)

    def _dictionary(self, codes: Any) -> DictionaryTensor:
        layout = self.layout
        return DictionaryTensor(
            codes,
            cast("npt.NDArray[Any]", self.table),
            axis=layout.axis,
            repeat_axis=layout.repeat_axis,
            repeat=layout.repeat,
            shape=layout.shape,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelProcessor(ABC):
    """The common part of all image processors; a family of models implements two steps.

    A family says in :meth:`layout` what becomes of an image of some size, and in :meth:`write`
    resizes and cuts the bytes. Encodings, dtypes, backends and destinations are common to all.

    Parameters
    ----------
    normalization : Normalization
        How bytes become floats; the backend decides whether it is fused.
    resample : int
        A ``PIL.Image.Resampling``.
    do_convert_rgb : bool
        Convert every mode to RGB first.
    backend : {"auto", "torchvision", "pil"}
        Whose pixels: those of transformers' torchvision or PIL backend, bit for bit. ``"auto"`` is
        what transformers chooses in this installation, and is replaced by it.
    sixteen_bit : {"clip", "scale"}
        How 16-bit grey becomes 8-bit: as in transformers, where all above 255 is white, or scaled.

    Raises
    ------
    MaterializeError
        For another backend or ``sixteen_bit``.
    """

    normalization: Normalization = field(
        default_factory=lambda: Normalization(mean=CLIP_MEAN, std=CLIP_STD)
    )
    resample: int = Image.Resampling.BICUBIC
    do_convert_rgb: bool = True
    backend: Backend = "auto"
    sixteen_bit: SixteenBit = "clip"

    def __post_init__(self) -> None:
        backend = resolve_backend(self.backend)
        if self.sixteen_bit not in SIXTEEN_BIT:
            raise MaterializeError(
                f"sixteen_bit must be 'clip' or 'scale', got {self.sixteen_bit!r}",
                path="$.sixteen_bit",
            )
        fused = replace(self.normalization, fused=backend == "torchvision")
        object.__setattr__(self, "backend", backend)
        object.__setattr__(self, "normalization", fused)

    @abstractmethod
    def layout(self, height: int, width: int, *, channels: int) -> CodesLayout:
        """Return the layout of the bytes of an image of this size.

        Raises
        ------
        MaterializeError
            When an image of this size cannot be processed.
        """

    @abstractmethod
    def write(self, pixels: Pixels, codes: npt.NDArray[np.uint8]) -> None:
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
        """Return what will be written for an image of this size, before any pixel is decoded.

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
        **Copies**: apart from the backend's own images each byte once, into its place; for
        ``"plain"`` from there each float once. **Lifetime**: the feature is, or holds, ``out``.
        """
        pixels = opened_pixels(
            image,
            convert=self.do_convert_rgb,
            backend=resolve_backend(self.backend),
            sixteen_bit=self.sixteen_bit,
        )
        plan = self.plan(
            pixels.height,
            pixels.width,
            channels=pixels.channels,
            encoding=encoding,
            dtype=dtype,
        )
        if out is None:
            out = plan.empty()
        codes = plan.codes_in(out)
        self.write(pixels, codes)
        return ProcessedImage(plan.finish(codes, out), plan.model_specific_data)
