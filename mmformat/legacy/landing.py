"""Put a tensor's bytes where they shall stay, and make a torch tensor or a numpy array of them."""

from __future__ import annotations

import importlib
import importlib.util
import mmap
import sys
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from mmformat.errors import DecodeError, MissingExtraError, ModelError
from mmformat.legacy.nodes import Storage, Tensor
from mmformat.model.dtypes import ITEMSIZE, numpy_dtype, torch_dtype

__all__ = ["Library", "TensorMaker", "land", "layout"]

Library = Literal["auto", "torch", "numpy"]
"""What a torch tensor of a pickle becomes; a numpy array always stays one."""

ALIGNMENT: Final = 64
_PIECE_NBYTES: Final = 8 * 2**20
_WORDS: Final = {1: "u1", 2: "u2", 4: "u4", 8: "u8", 16: "V16"}


def land(tensor: Tensor, target: npt.NDArray[np.uint8], mapping: mmap.mmap | None = None) -> None:
    """Write the bytes of the view, in C order and native byte order, to ``target``.

    ``mapping`` is the file where the bytes may lie; its pages are given back as they are read.

    Raises
    ------
    DecodeError
        When the storage never got its bytes.

    Notes
    -----
    **Copies**: the bytes of the view, once; not those of the storage around it.
    """
    if not tensor.nbytes:
        return
    source = tensor.source.data if isinstance(tensor.source, Storage) else tensor.source
    if source is None:
        raise DecodeError("expected the bytes of a storage, got none", path="$")
    size = ITEMSIZE[tensor.dtype]
    if tensor.stride_nbytes is None:
        _copy(source, tensor.offset_nbytes, target, mapping)
    else:
        word = np.dtype(_WORDS[size])
        view: npt.NDArray[Any] = np.ndarray(
            tensor.shape, word, source, tensor.offset_nbytes, tensor.stride_nbytes
        )
        np.copyto(target.view(word).reshape(tensor.shape), view)
    if tensor.swapped:
        width = size // 2 if tensor.dtype.startswith("complex") else size
        target.view(f"u{width}").byteswap(inplace=True)
    if tensor.conjugate or tensor.negative:
        values = target.view(numpy_dtype(tensor.dtype))
        if tensor.conjugate:
            np.conjugate(values, out=values)
        if tensor.negative:
            np.negative(values, out=values)


def layout(tensors: list[Tensor]) -> tuple[list[int], int]:
    """Return the offset of each tensor in one block, on 64-byte boundaries, and its size."""
    offsets, total = [], 0
    for tensor in tensors:
        offsets.append(total)
        total += -(-tensor.nbytes // ALIGNMENT) * ALIGNMENT
    return offsets, total


def _copy(
    source: memoryview, begin: int, target: npt.NDArray[np.uint8], mapping: mmap.mmap | None
) -> None:
    """Copy piece by piece, and let the kernel take back the file's pages behind each piece.

    They are clean, so that memory never holds the tensor twice.
    """
    data = np.frombuffer(source, np.uint8, target.nbytes, begin)
    if mapping is None or source.obj is not mapping or target.nbytes < 2 * _PIECE_NBYTES:
        target[:] = data
        return
    start = data.ctypes.data - np.frombuffer(mapping, np.uint8).ctypes.data
    page = mmap.PAGESIZE
    for low in range(0, target.nbytes, _PIECE_NBYTES):
        high = min(low + _PIECE_NBYTES, target.nbytes)
        target[low:high] = data[low:high]
        first, last = -(-(start + low) // page) * page, (start + high) // page * page
        mapping.madvise(mmap.MADV_DONTNEED, first, last - first)


class TensorMaker:
    """Make the tensors of a model from landed bytes.

    Parameters
    ----------
    library : {"auto", "torch", "numpy"}
        ``"auto"`` gives torch for torch when torch is installed, else numpy.

    Raises
    ------
    ModelError
        For another library.
    """

    __slots__ = ("_torch", "library")

    def __init__(self, library: Library = "auto") -> None:
        if library not in ("auto", "torch", "numpy"):
            raise ModelError(f"expected auto, torch or numpy, got {library!r}", path="$.library")
        self.library = library
        self._torch: bool | None = {"auto": None, "torch": True, "numpy": False}[library]

    def make(self, tensor: Tensor, data: npt.NDArray[np.uint8]) -> Any:
        """Return the tensor over ``data``; no byte is copied.

        Raises
        ------
        MissingExtraError
            For bfloat16 and float8 where neither torch nor ml_dtypes is installed, or when torch
            was asked for and is not installed.
        """
        if tensor.lib == "torch" and self._wants_torch():
            try:
                # Before the dtype is asked for: another thread may be in the midst of importing.
                import torch
            except ImportError as error:
                raise MissingExtraError(
                    "expected torch for torch tensors, but it is not installed",
                    hint="pip install 'mmformat[torch]', or library='numpy'",
                ) from error

            dtype = torch_dtype(tensor.dtype)
            if not tensor.nbytes:
                return torch.empty(tensor.shape, dtype=dtype)
            return torch.frombuffer(data, dtype=dtype).view(tensor.shape)
        return data.view(numpy_dtype(tensor.dtype)).reshape(tensor.shape)

    def prepare(self) -> None:
        """Import torch now, where it will be needed, so that threads do not meet it half made."""
        if self._wants_torch():
            importlib.import_module("torch")

    def _wants_torch(self) -> bool:
        if self._torch is None:
            self._torch = "torch" in sys.modules or importlib.util.find_spec("torch") is not None
        return self._torch
