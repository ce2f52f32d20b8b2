"""A tensor as codes into a table of at most 256 values per channel."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mmformat.errors import ModelError
from mmformat.model.dtypes import ITEMSIZE, numpy_dtype, torch_dtype
from mmformat.model.tensors import TensorSpec, is_tensor, is_torch, tensor_buffer, tensor_spec

if TYPE_CHECKING:
    import torch

__all__ = ["DictionaryTensor"]

MAX_ENTRIES = 256


class DictionaryTensor:
    """Hold a tensor as uint8 codes and a table of the values that each channel takes.

    The element at ``codes[..., c, ...]`` (``c`` on ``axis``) is ``table[c, code]``. The expanded
    codes get a new axis of extent ``repeat`` at ``repeat_axis`` along which the values are the
    same, and are then reshaped to ``shape``.

    Parameters
    ----------
    codes : uint8 tensor, any shape
        torch or numpy, on the CPU.
    table : tensor of the target dtype, (channels, entries), entries at most 256
        ``channels`` is the extent of ``axis`` in ``codes``, or 1 when all channels share a table.
    axis : int
        The channel axis of ``codes``.
    repeat_axis : int, default 0
        Where the repeated axis is inserted, counted in the shape with it.
    repeat : int, default 1
        The extent of the repeated axis; 1 inserts none.
    shape : tuple of int, optional
        The shape of the expanded tensor; that of the codes with the repeated axis when omitted.

    Raises
    ------
    ModelError
        When the parts contradict each other.

    Notes
    -----
    **Copies**: none; codes and table are kept as they are. Codes are not compared with the number
    of entries here (it would read every code): :meth:`expand` does that.

    References
    ----------
    SPEC.md, "Dictionary encoding".

    Examples
    --------
    >>> import numpy as np
    >>> codes = np.array([[0, 1], [1, 1]], np.uint8)
    >>> table = np.array([[0.5, 2.0]], np.float32)
    >>> DictionaryTensor(codes, table, axis=0).expand()
    array([[0.5, 2. ],
           [2. , 2. ]], dtype=float32)
    """

    __slots__ = ("axis", "codes", "repeat", "repeat_axis", "shape", "table")

    def __init__(
        self,
        codes: npt.NDArray[np.uint8] | torch.Tensor,
        table: npt.NDArray[Any] | torch.Tensor,
        *,
        axis: int = 0,
        repeat_axis: int = 0,
        repeat: int = 1,
        shape: tuple[int, ...] | None = None,
    ) -> None:
        for name, part in (("codes", codes), ("table", table)):
            if not is_tensor(part):
                raise ModelError(
                    f"expected a torch tensor or a numpy array, got {type(part).__name__}",
                    path=f"$.{name}",
                )
        code_spec = tensor_spec(codes, path="$.codes")
        table_spec = tensor_spec(table, path="$.table")
        check_dictionary(code_spec, table_spec, axis=axis, repeat_axis=repeat_axis, repeat=repeat)
        natural = expanded_shape(code_spec.shape, repeat_axis=repeat_axis, repeat=repeat)
        if shape is not None and (
            any(extent < 0 for extent in shape) or math.prod(shape) != math.prod(natural)
        ):
            raise ModelError(f"expected a shape of {math.prod(natural)} elements, got {shape}",
                             path="$.shape")
        self.codes = codes
        self.table = table
        self.axis = axis
        self.repeat_axis = repeat_axis
        self.repeat = repeat
        self.shape: tuple[int, ...] = natural if shape is None else tuple(shape)

    @property
    def dtype(self) -> str:
        """The name of the element type after expansion."""
        return tensor_spec(self.table).dtype

    @property
    def spec(self) -> TensorSpec:
        """The dtype and shape after expansion."""
        return TensorSpec(self.dtype, self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of codes and table together."""
        return tensor_spec(self.codes).nbytes + tensor_spec(self.table).nbytes

    def __repr__(self) -> str:
        ratio = self.spec.nbytes / max(1, self.nbytes)
        return (
            f"DictionaryTensor(dtype={self.dtype}, shape={self.shape}, "
            f"codes={tensor_spec(self.codes).shape}, entries={self.table.shape[1]}, "
            f"repeat={self.repeat}, ratio={ratio:.2f})"
        )

    def expand(self) -> npt.NDArray[Any] | torch.Tensor:
        """Return the plain tensor: torch when the table is torch, else numpy.

        Raises
        ------
        ModelError
            When a code is not below the number of entries.

        Notes
        -----
        **Copies**: writes every element of the result once; codes and table are read.
        """
        bits = _expand_bits(self)
        if is_torch(self.table):
            import torch

            return torch.from_numpy(bits).view(torch_dtype(self.dtype)).view(self.shape)
        return bits.view(numpy_dtype(self.dtype)).reshape(self.shape)


def check_dictionary(
    codes: TensorSpec, table: TensorSpec, *, axis: int, repeat_axis: int, repeat: int
) -> None:
    """Raise ModelError when the parts of a dictionary tensor contradict each other."""
    if codes.dtype != "uint8":
        raise ModelError(f"expected uint8 codes, got {codes.dtype}", path="$.codes")
    if len(table.shape) != 2 or not 1 <= table.shape[1] <= MAX_ENTRIES:
        raise ModelError(
            f"expected a table of shape (channels, 1..{MAX_ENTRIES}), got {table.shape}",
            path="$.table",
        )
    rank = len(codes.shape)
    if not 0 <= axis < rank:
        raise ModelError(f"expected an axis of {rank} axes, got {axis}", path="$.axis")
    if table.shape[0] not in (1, codes.shape[axis]):
        raise ModelError(
            f"expected 1 or {codes.shape[axis]} channels, got {table.shape[0]}", path="$.table"
        )
    if repeat < 1 or not 0 <= repeat_axis <= rank:
        raise ModelError(
            f"expected repeat >= 1 at an axis of 0..{rank}, got {repeat} at {repeat_axis}",
            path="$.repeat",
        )


def expanded_shape(
    codes: tuple[int, ...], *, repeat_axis: int, repeat: int
) -> tuple[int, ...]:
    """Return the shape of the codes with the repeated axis in it."""
    if repeat == 1:
        return codes
    return (*codes[:repeat_axis], repeat, *codes[repeat_axis:])


def _expand_bits(tensor: DictionaryTensor) -> npt.NDArray[Any]:
    # Look-ups move bit patterns, so that NaN payloads and -0.0 come through and every dtype works.
    spec = tensor_spec(tensor.table)
    itemsize = ITEMSIZE[spec.dtype]
    word = np.dtype(f"u{itemsize}") if itemsize <= 8 else np.dtype("c16")
    table = np.frombuffer(tensor_buffer(tensor.table), word).reshape(spec.shape)
    codes = np.frombuffer(tensor_buffer(tensor.codes), np.uint8).reshape(tuple(tensor.codes.shape))
    entries = spec.shape[1]
    if codes.size and entries < MAX_ENTRIES and int(codes.max()) >= entries:
        raise ModelError(
            f"expected codes below {entries}, got {int(codes.max())}",
            path="$.codes",
            code="dictionary-code",
        )
    out = np.empty(codes.shape, word)
    if spec.shape[0] == 1:
        np.take(table[0], codes, out=out, mode="clip")
    else:
        axis = tensor.axis
        for channel in range(spec.shape[0]):
            where = (slice(None),) * axis + (channel,)
            out[where] = table[channel][codes[where]]
    if tensor.repeat > 1:
        full = expanded_shape(
            out.shape, repeat_axis=tensor.repeat_axis, repeat=tensor.repeat
        )
        out = np.broadcast_to(np.expand_dims(out, tensor.repeat_axis), full)
    return np.ascontiguousarray(out).reshape(-1)
