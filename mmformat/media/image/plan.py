"""What a processor will make of an image, known from the image's size alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Self, cast

import numpy as np
import numpy.typing as npt

from mmformat.errors import MaterializeError
from mmformat.model import DictionaryTensor, TensorValue
from mmformat.model.dictionary import expanded_shape
from mmformat.model.tensors import TensorSpec, is_torch, numpy_dtype, tensor_spec, torch_dtype

if TYPE_CHECKING:
    import torch

    from mmformat.media.image.normalization import Normalization
    from mmformat.media.image.processed import Encoding, FloatDtype

__all__ = ["CodesLayout", "ImagePlan"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CodesLayout:
    """Say how a processor lays out the bytes of an image.

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
        What the model wants beside the pixels.
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
    """Say what a processor will write, and make the feature of what it wrote.

    Made by the ``plan`` of an image processor.

    Parameters
    ----------
    layout : CodesLayout
        Where the bytes go.
    table : float tensor (channels, 256), or None
        What a byte becomes; None leaves the bytes alone.
    is_plain : bool
        Whether floats are written, and not bytes that stand beside their table.

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
        """The tensor that is written: bytes, or floats when plain."""
        layout = self.layout
        if self.table is None or not self.is_plain:
            return TensorSpec("uint8", layout.codes)
        natural = expanded_shape(layout.codes, repeat_axis=layout.repeat_axis, repeat=layout.repeat)
        return TensorSpec(tensor_spec(self.table).dtype, layout.shape or natural)

    @property
    def library(self) -> Literal["torch", "numpy"]:
        """Whose tensor it is: torch's for bfloat16 in full, which numpy does not know."""
        return "torch" if self.is_plain and is_torch(self.table) else "numpy"

    @property
    def model_specific_data(self) -> dict[str, Any]:
        """What the model wants beside the pixels."""
        return self.layout.model_specific_data

    def empty(self) -> Any:
        """Return new memory of :attr:`spec`."""
        spec = self.spec
        if self.library == "torch":
            import torch

            return torch.empty(spec.shape, dtype=torch_dtype(spec.dtype))
        return np.empty(spec.shape, numpy_dtype(spec.dtype))

    def codes_in(self, out: Any) -> npt.NDArray[np.uint8]:
        """Return where the bytes are written: ``out`` itself, or new memory when it is plain.

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
        """Return the feature over ``out``, which is or will be written."""
        if self.table is None or self.is_plain:
            feature: TensorValue = out
            return feature
        return self._dictionary(out)

    def finish(self, codes: npt.NDArray[np.uint8], out: Any = None) -> TensorValue:
        """Return the feature of bytes that are written.

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
