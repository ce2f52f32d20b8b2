"""The CUDA runtime library that torch has loaded, for the calls that torch does not offer."""

from __future__ import annotations

import ctypes
import functools
import re
from pathlib import Path
from typing import Any, Final

__all__ = ["IpcMemoryHandle", "forget_last_error", "library", "torch_runtime", "words_of"]

IPC_HANDLE_NBYTES: Final = 64
HOST_TO_DEVICE: Final = 1
ANY_TO_ANY: Final = 4
"""cudaMemcpyDefault: the runtime sees from the addresses where they are."""


class IpcMemoryHandle(ctypes.Structure):
    """``cudaIpcMemHandle_t``, which is handed over by value."""

    _fields_ = (("reserved", ctypes.c_char * IPC_HANDLE_NBYTES),)


def torch_runtime() -> Any:
    """Return torch's own few runtime calls; CUDA is initialized by it."""
    import torch

    cuda: Any = torch.cuda  # torch leaves this function untyped
    return cuda.cudart()


@functools.cache
def library() -> ctypes.CDLL:
    """Return libcudart as this process already has it; a second copy would know other errors.

    Raises
    ------
    OSError
        When torch has it linked in, and there is none.
    """
    torch_runtime()
    found = re.search(r"\S*/libcudart[^/\s]*\.so\S*", Path("/proc/self/maps").read_text())
    if found is None:
        raise OSError("torch has not loaded libcudart")
    made = ctypes.CDLL(found.group())
    pointer, size, number = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    made.cudaGetErrorString.restype = ctypes.c_char_p
    made.cudaMalloc.argtypes = (ctypes.POINTER(pointer), size)
    made.cudaFree.argtypes = (pointer,)
    made.cudaMemcpyAsync.argtypes = (pointer, pointer, size, number, pointer)
    made.cudaIpcGetMemHandle.argtypes = (ctypes.POINTER(IpcMemoryHandle), pointer)
    made.cudaIpcOpenMemHandle.argtypes = (
        ctypes.POINTER(pointer), IpcMemoryHandle, ctypes.c_uint,
    )  # fmt: skip
    made.cudaIpcCloseMemHandle.argtypes = (pointer,)
    return made


def forget_last_error() -> None:
    """Clear the error that the next kernel launch would otherwise be blamed for."""
    try:
        library().cudaGetLastError()
    except (OSError, AttributeError):
        # Then torch reports it once more at its next launch; there is no other way to reach it.
        return


def words_of(result: int) -> str | None:
    """Return CUDA's own words for a result that is no success, and clear it; None for success."""
    if result == 0:
        return None
    words: bytes = library().cudaGetErrorString(result)
    forget_last_error()
    return f"CUDA error {result}, {words.decode('utf-8', 'replace')}"
