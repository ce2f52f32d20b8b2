"""A tensor as uint8 codes and a table of at most 256 values per channel."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from mmformat.errors import MissingExtraError, ModelError
from mmformat.model.arguments import check_type
from mmformat.model.tensors import (
    ITEMSIZE,
    TensorSpec,
    is_tensor,
    is_torch,
    numpy_dtype,
    tensor_buffer,
    tensor_spec,
    torch_dtype,
)

if TYPE_CHECKING:
    import torch

__all__ = [
    "DictionaryTensor",
    "expand_numpy",
    "expand_torch",
]

MAX_ENTRIES = 256


class DictionaryTensor:
    """A tensor as uint8 codes and a table of the values of each channel.

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
        If the parts contradict each other.

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
        check_type(shape, (list, tuple, type(None)), "extents", name="shape")
        if shape is not None and (
            any(type(extent) is not int or extent < 0 for extent in shape)
            or math.prod(shape) != math.prod(natural)
        ):
            raise ModelError(
                f"expected a shape of {math.prod(natural)} elements, got {shape}", path="$.shape"
            )
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

    def expand(
        self, out: npt.NDArray[Any] | torch.Tensor | None = None
    ) -> npt.NDArray[Any] | torch.Tensor:
        """Return the plain tensor: torch when the table is torch, else numpy.

        Parameters
        ----------
        out : tensor, optional
            C-contiguous, on the CPU, of the dtype and shape of the result: where it is written.

        Raises
        ------
        ModelError
            If a code is not below the number of entries, or ``out`` is another tensor.

        Notes
        -----
        **Copies**: writes every element of the result once; codes and table are read.
        """
        spec = tensor_spec(self.table)
        itemsize = ITEMSIZE[spec.dtype]
        # Look-ups move bit patterns: NaN payloads and -0.0 come through and every dtype works.
        word = np.dtype(f"u{itemsize}") if itemsize <= 8 else np.dtype("c16")
        table = np.frombuffer(memoryview(tensor_buffer(self.table)), word).reshape(spec.shape)
        codes = np.frombuffer(memoryview(tensor_buffer(self.codes)), np.uint8)
        codes = codes.reshape(tuple(self.codes.shape))
        if codes.size and spec.shape[1] < MAX_ENTRIES:
            _check_codes(int(codes.max()), spec.shape[1])
        bits = expand_numpy(
            codes,
            table,
            axis=self.axis,
            repeat_axis=self.repeat_axis,
            repeat=self.repeat,
            out=None if out is None else _words_of(out, self.spec, word),
        ).reshape(-1)
        if out is not None:
            return out
        if is_torch(self.table):
            import torch

            return torch.from_numpy(bits).view(torch_dtype(self.dtype)).view(self.shape)
        return bits.view(numpy_dtype(self.dtype)).reshape(self.shape)

    def expand_on(self, device: torch.device | str) -> torch.Tensor:
        """Return the plain torch tensor on a device; codes and table go there, nothing else.

        Parameters
        ----------
        device : torch.device or str
            ``"cpu"``, ``"cuda:0"``, or any other that torch can copy to.

        Raises
        ------
        ModelError
            If a code is not below the number of entries, or ``device`` is invalid.
        MissingExtraError
            If torch is not installed.

        Notes
        -----
        **Copies**: codes and table to the device (none when they are there); on the device 4 bytes
        a code for indices, and every element of the result once, or twice when it is repeated.
        A table of fewer than 256 entries waits for the device once, to check the codes.
        """
        dtype = torch_dtype(self.dtype)  # raises when torch is absent
        codes = _on_device(self.codes, device)
        table = _on_device(self.table, device).view(dtype)
        if codes.numel() and table.shape[1] < MAX_ENTRIES:
            _check_codes(int(codes.max()), int(table.shape[1]))
        values = expand_torch(
            codes, table, axis=self.axis, repeat_axis=self.repeat_axis, repeat=self.repeat
        )
        return values.reshape(self.shape)

    def to(self, dtype: str) -> DictionaryTensor:
        """Return the tensor in another float dtype; only the table changes.

        Parameters
        ----------
        dtype : str
            A float dtype's name, as ``"bfloat16"``. Values are rounded to nearest, ties to even,
            so that expanding gives what casting the expanded tensor gives.

        Raises
        ------
        ModelError
            If either dtype is no float, or numpy has no bfloat16 and torch is absent.

        Notes
        -----
        **Copies**: the table (a few KB); the codes are shared. The table becomes torch for
        bfloat16 and float8 where torch is installed, else it stays what it was.

        Examples
        --------
        >>> import numpy as np
        >>> table = np.array([[0.1, 2.0]], np.float32)
        >>> DictionaryTensor(np.zeros((1, 4), np.uint8), table).to("float16").dtype
        'float16'
        """
        check_type(dtype, str, "a dtype's name", name="dtype")
        if "float" not in dtype or "float" not in self.dtype:
            raise ModelError(
                f"expected two float dtypes, got {self.dtype} and {dtype}", path="$.dtype"
            )
        if dtype == self.dtype:
            return self
        return DictionaryTensor(
            self.codes,
            _cast(self.table, dtype),
            axis=self.axis,
            repeat_axis=self.repeat_axis,
            repeat=self.repeat,
            shape=self.shape,
        )


def check_dictionary(
    codes: TensorSpec, table: TensorSpec, *, axis: int, repeat_axis: int, repeat: int
) -> None:
    """Raise ModelError if the parts of a dictionary tensor contradict each other."""
    if codes.dtype != "uint8":
        raise ModelError(f"expected uint8 codes, got {codes.dtype}", path="$.codes")
    if len(table.shape) != 2 or not 1 <= table.shape[1] <= MAX_ENTRIES:
        raise ModelError(
            f"expected a table of shape (channels, 1..{MAX_ENTRIES}), got {table.shape}",
            path="$.table",
        )
    for name, number in (("axis", axis), ("repeat_axis", repeat_axis), ("repeat", repeat)):
        if type(number) is not int:
            raise ModelError(f"expected an int, got {type(number).__name__}", path=f"$.{name}")
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


def expanded_shape(codes: tuple[int, ...], *, repeat_axis: int, repeat: int) -> tuple[int, ...]:
    """Return the shape of the codes with the repeated axis in it."""
    if repeat == 1:
        return codes
    return (*codes[:repeat_axis], repeat, *codes[repeat_axis:])


def _words_of(out: Any, spec: TensorSpec, word: np.dtype[Any]) -> npt.NDArray[Any]:
    """Return the elements of a destination as words, one axis, in the same memory."""
    if not is_tensor(out):
        raise ModelError(f"expected a tensor, got {type(out).__name__}", path="$.out")
    contiguous = out.is_contiguous() if is_torch(out) else out.flags.c_contiguous
    if tensor_spec(out) != spec or not contiguous:
        raise ModelError(f"expected a contiguous destination of {spec}", path="$.out")
    if is_torch(out):
        import torch

        out = out.view(-1).view(torch.uint8).numpy()
    words: npt.NDArray[Any] = out.reshape(-1).view(word)
    return words


def _check_codes(largest: int, entries: int) -> None:
    if largest >= entries:
        raise ModelError(
            f"expected codes below {entries}, got {largest}", path="$.codes", code="dictionary-code"
        )


def _on_device(part: Any, device: torch.device | str) -> torch.Tensor:
    import torch

    try:
        device = torch.device(device)
    except (RuntimeError, TypeError, ValueError, OverflowError) as error:
        raise ModelError(f"expected a device, got {device!r:.60}", path="$.device") from error
    if is_torch(part):
        moved: torch.Tensor = part.to(device)
        return moved
    # numpy has no bfloat16 that torch would take: bytes have no such trouble.
    raw = np.ascontiguousarray(part).reshape(-1).view(np.uint8)
    tensor = torch.from_numpy(raw if raw.flags.writeable else raw.copy())
    return tensor.view(torch_dtype(tensor_spec(part).dtype)).view(part.shape).to(device)


def _cast(table: Any, dtype: str) -> npt.NDArray[Any] | torch.Tensor:
    if is_torch(table):
        cast: torch.Tensor = table.to(torch_dtype(dtype))
        return cast
    known: np.dtype[Any] | None = (
        np.dtype(dtype) if dtype in ("float16", "float32", "float64") else None
    )
    if known is not None:
        with np.errstate(over="ignore", invalid="ignore"):
            rounded: npt.NDArray[Any] = table.astype(known)
        return rounded
    try:
        return _on_device(table, "cpu").to(torch_dtype(dtype))
    except MissingExtraError:
        converted: npt.NDArray[Any] = table.astype(numpy_dtype(dtype))
        return converted


BLOCK: Final = 65_536
"""Codes looked up at once; their indices (8 bytes each) and values fit in a core's cache."""

PAIRS_FROM: Final = 4 * BLOCK
"""Codes of a channel from which a table of all 65,536 pairs pays off."""

_WIDER: Final[dict[int, np.dtype[Any]]] = {
    1: np.dtype("u2"),
    2: np.dtype("u4"),
    4: np.dtype("u8"),
    8: np.dtype("c16"),
}


def expand_numpy(
    codes: npt.NDArray[np.uint8],
    table: npt.NDArray[Any],
    *,
    axis: int,
    repeat_axis: int,
    repeat: int,
    out: npt.NDArray[Any] | None = None,
) -> npt.NDArray[Any]:
    """Return ``table[channel, code]`` for every code, repeated, in C order.

    Parameters
    ----------
    codes : uint8 array
        Every code is below the number of entries.
    table : array of words, (channels, entries)
        Words are moved as they are, so that NaN payloads and -0.0 come through.
    out : one-dimensional array of the table's dtype, optional
        As many as there are elements in the result: where it is written.

    Notes
    -----
    **Copies**: every element of the result is written once, through a block of fixed size.
    """
    channels = table.shape[0]
    natural = codes.shape
    repeat_axis = 0 if repeat == 1 else repeat_axis
    # Bring everything to seven axes, of which one of the two for the repeat has extent 1 and the
    # channels are one axis that the table is walked along.
    if channels == 1 and natural[axis] != 1:
        before, after = natural[:repeat_axis], natural[repeat_axis:]
        five = (1, 1, 1, math.prod(before), math.prod(after))
        seven = (1, 1, 1, 1, five[3], repeat, five[4])
    elif repeat_axis <= axis:
        outer = math.prod(natural[:repeat_axis]), math.prod(natural[repeat_axis:axis])
        inner = math.prod(natural[axis + 1 :])
        five = (*outer, channels, 1, inner)
        seven = (outer[0], repeat, outer[1], channels, 1, 1, inner)
    else:
        lead = math.prod(natural[:axis])
        inner2 = math.prod(natural[axis + 1 : repeat_axis]), math.prod(natural[repeat_axis:])
        five = (lead, 1, channels, *inner2)
        seven = (lead, 1, 1, channels, inner2[0], repeat, inner2[1])
    folded = np.ascontiguousarray(codes).reshape(five)
    out = np.empty(seven, table.dtype) if out is None else out.reshape(seven)
    for channel in range(channels):
        _expand_channel(folded[:, :, channel], table[channel], out[:, :, :, channel])
    full = natural if repeat == 1 else (*natural[:repeat_axis], repeat, *natural[repeat_axis:])
    return out.reshape(full)


def expand_torch(
    codes: torch.Tensor,
    table: torch.Tensor,
    *,
    axis: int,
    repeat_axis: int,
    repeat: int,
) -> torch.Tensor:
    """Return ``table[channel, code]`` for every code, repeated, where codes and table lie.

    Notes
    -----
    **Copies**: 4 bytes a code for the indices, and every element of the result once (twice when
    there is a repeat).
    """
    import torch

    channels, entries = table.shape
    words = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    word = words.get(table.element_size())
    values = table.contiguous() if word is None else table.contiguous().view(word)
    indices = codes.to(torch.int32)
    if channels > 1:
        offsets = torch.arange(channels, dtype=torch.int32, device=codes.device) * entries
        indices += offsets.view(-1, *[1] * (codes.dim() - axis - 1))
    found = torch.index_select(values.view(-1), 0, indices.view(-1)).view(codes.shape)
    if word is not None:
        found = found.view(table.dtype)
    if repeat > 1:
        shape = (*codes.shape[:repeat_axis], repeat, *codes.shape[repeat_axis:])
        found = found.unsqueeze(repeat_axis).expand(shape).contiguous()
    return found


def _expand_channel(
    codes: npt.NDArray[np.uint8], values: npt.NDArray[Any], out: npt.NDArray[Any]
) -> None:
    # codes (a, b, c, d) -> out (a, repeat, b, c, repeat, d), one of the repeats being 1.
    if codes.size == 0:
        return
    wider = _WIDER.get(values.dtype.itemsize)
    indexed: npt.NDArray[Any] = codes
    if wider is not None and codes.size >= PAIRS_FROM and codes.shape[3] % 2 == 0:
        indexed, values, out = codes.view("<u2"), _pairs(values, wider), out.view(wider)
    rows, depth = indexed.shape[0], indexed.shape[1] * indexed.shape[2]
    columns = indexed.shape[3]
    row_step = max(1, BLOCK // (depth * columns))
    column_step = columns if depth * columns <= BLOCK else max(1, BLOCK // depth)
    for row in range(0, rows, row_step):
        for column in range(0, columns, column_step):
            block = indexed[row : row + row_step, :, :, column : column + column_step]
            found = np.take(values, block.astype(np.intp), mode="clip")
            target = out[row : row + row_step, ..., column : column + column_step]
            target[...] = found[:, None, :, :, None, :]


def _pairs(values: npt.NDArray[Any], wider: np.dtype[Any]) -> npt.NDArray[Any]:
    # Entry lo + 256 * hi holds the words of lo and hi, in the order of two codes in memory.
    padded = np.zeros(256, values.dtype)
    padded[: values.size] = values
    pairs = np.empty((256, 256, 2), values.dtype)
    pairs[:, :, 0] = padded
    pairs[:, :, 1] = padded[:, None]
    return pairs.reshape(-1).view(wider)
