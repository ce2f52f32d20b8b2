"""Where a pickle's bytes lie, and where the bytes of its tensors are put."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import mmap
import os
import stat
import sys
from collections import Counter
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from mmformat._extras import install
from mmformat.errors import DecodeError, MissingExtraError, ModelError
from mmformat.legacy.nodes import Storage, Tensor, give_back
from mmformat.model.arguments import check_path, check_text
from mmformat.model.tensors import ITEMSIZE, numpy_dtype, torch_dtype

__all__ = [
    "Lander",
    "Library",
    "PickleSource",
    "Source",
    "TensorMaker",
    "layout",
]

Library = Literal["auto", "torch", "numpy"]
"""What a torch tensor of a pickle becomes; a numpy array always stays one."""

ALIGNMENT: Final = 64
_PIECE_NBYTES: Final = 2 * 2**20
_MADV_POPULATE_WRITE: Final = 23
_WORDS: Final = {1: "u1", 2: "u2", 4: "u4", 8: "u8", 16: "V16"}


class Lander:
    """Write tensors where they belong, and give back the pages that they were read from.

    Parameters
    ----------
    tensors : list of Tensor
        All that will be landed.
    file : mmap, optional
        The source's own mapping: its pages come back when they are read again.
    block : mmap, optional
        New memory that the tensors are written to, when nothing but them is read any more: its
        pages are made a piece at a time, and memory without a file is given back too.
    """

    __slots__ = ("_block", "_file", "_uses")

    def __init__(
        self,
        tensors: list[Tensor],
        file: mmap.mmap | None = None,
        *,
        block: mmap.mmap | None = None,
    ) -> None:
        self._file = file
        self._block = block
        self._uses: Counter[int] = Counter()
        if block is not None:
            self._uses.update(id(part.obj) for each in tensors if (part := _source(each)))

    def land(self, tensor: Tensor, target: npt.NDArray[np.uint8]) -> None:
        """Write the bytes of the view, in C order and native byte order, to ``target``.

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
        source = _source(tensor)
        if source is None:
            raise DecodeError("expected the bytes of a storage, got none", path="$")
        if tensor.stride_nbytes is None:
            lone = source.obj is self._file or self._uses[id(source.obj)] == 1
            self._copy(source, tensor.offset_nbytes, target, gives_back=lone)
        _put(tensor, source, target)

    def _copy(
        self, source: memoryview, begin: int, target: npt.NDArray[np.uint8], *, gives_back: bool
    ) -> None:
        """Copy piece by piece and give pages back behind each: memory never holds it twice."""
        data = np.frombuffer(source, np.uint8, target.nbytes, begin)
        for low in range(0, target.nbytes, _PIECE_NBYTES):
            high = min(low + _PIECE_NBYTES, target.nbytes)
            self._make_pages(target, low, high)
            target[low:high] = data[low:high]
            if gives_back and target.nbytes >= 2 * _PIECE_NBYTES:
                give_back(source, begin + low, begin + high)

    def _make_pages(self, target: npt.NDArray[np.uint8], low: int, high: int) -> None:
        # In one call: a fault for each page costs more than the copy.
        if self._block is None:
            return
        start = target.ctypes.data - np.frombuffer(self._block, np.uint8).ctypes.data
        first = (start + low) // mmap.PAGESIZE * mmap.PAGESIZE
        with contextlib.suppress(OSError):  # a kernel before 5.14: each page has its fault
            self._block.madvise(_MADV_POPULATE_WRITE, first, start + high - first)


def _source(tensor: Tensor) -> memoryview | None:
    return tensor.source.data if isinstance(tensor.source, Storage) else tensor.source


def _put(tensor: Tensor, source: memoryview, target: npt.NDArray[np.uint8]) -> None:
    size = ITEMSIZE[tensor.dtype]
    if tensor.stride_nbytes is not None:
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
        check_text(library, ("auto", "torch", "numpy"), name="library")
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
                    hint=f"{install('torch')}, or library='numpy'",
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


PickleSource = str | os.PathLike[str] | bytes | bytearray | memoryview
"""What can be converted: a path, or the bytes themselves."""


class Source:
    """Hold the bytes of a pickle for the time of a conversion.

    Parameters
    ----------
    source : str, path, bytes, bytearray or memoryview
        A path is opened and mapped; bytes stay where they are.

    Raises
    ------
    ModelError
        For another type.
    DecodeError
        When the file cannot be read.

    Notes
    -----
    **Copies**: none. A file that shrinks while it is read ends the reading process with SIGBUS,
    which the sandbox turns into an error.
    """

    def __init__(self, source: PickleSource) -> None:
        self._map: mmap.mmap | None = None
        self.descriptor: int | None = None
        if isinstance(source, bytes | bytearray | memoryview):
            self.name = "<bytes>"
            try:
                self.view = memoryview(source).cast("B").toreadonly()
            except TypeError as error:
                raise ModelError(
                    f"expected contiguous bytes, got: {error}", path="$.source"
                ) from error
            return
        if not isinstance(source, str | os.PathLike):
            raise ModelError(
                f"expected a path or bytes, got {type(source).__name__}", path="$.source"
            )
        self.name = str(check_path(source, name="source"))
        try:
            # A pipe would otherwise be waited for until somebody writes to it.
            options = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
            self.descriptor = os.open(self.name, options)
            self._open(self.descriptor)
        except DecodeError:
            self.close()
            raise
        except OSError as error:
            self.close()
            raise DecodeError(f"expected a readable file, got: {error}", path="$") from error

    def _open(self, descriptor: int) -> None:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise DecodeError(f"expected a file, got {self.name}", path="$")
        if status.st_size == 0:
            self.view = memoryview(b"")
            return
        self._map = mmap.mmap(descriptor, 0, prot=mmap.PROT_READ, flags=mmap.MAP_PRIVATE)
        self.view = memoryview(self._map)

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Give descriptor and mapping back; views of it that are still held keep the mapping."""
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None

    def lander(self, tensors: list[Tensor]) -> Lander:
        """Return what writes tensors of this source to where they belong."""
        return Lander(tensors, self._map)
