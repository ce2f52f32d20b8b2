"""The CUDA runtime library that torch has loaded, for the calls that torch does not offer."""

from __future__ import annotations

import ctypes
import functools
import re
from pathlib import Path
from typing import Any

from mmformat.errors import PlacementError

__all__ = ["forget_last_error", "library", "succeed", "torch_runtime"]


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
    PlacementError
        With code ``runtime`` when there is none.
    """
    torch_runtime()
    found = re.search(r"\S*/libcudart[^/\s]*\.so\S*", Path("/proc/self/maps").read_text())
    if found is None:
        raise PlacementError(
            "expected torch to have loaded libcudart, got a build that links it statically",
            code="runtime",
        )
    return ctypes.CDLL(found.group())


def forget_last_error() -> None:
    """Clear the error that the next kernel launch would otherwise be blamed for."""
    try:
        library().cudaGetLastError()
    except (PlacementError, OSError, AttributeError):
        # Then torch reports it once more at its next launch; there is no other way to reach it.
        return


def succeed(result: int, *, doing: str, code: str) -> None:
    """Raise PlacementError with CUDA's own words unless ``result`` is success."""
    if result == 0:
        return
    describe = library().cudaGetErrorString
    describe.restype = ctypes.c_char_p
    words = describe(result).decode("utf-8", "replace")
    forget_last_error()
    raise PlacementError(f"expected {doing}, got CUDA error {result} ({words})", code=code)
