"""Which device is meant, and why it cannot be had when it cannot."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmformat._extras import require
from mmformat.errors import PlacementError

if TYPE_CHECKING:
    import torch

__all__ = ["is_cpu", "resolve_device"]


def is_cpu(device: torch.device | str) -> bool:
    """Return whether the CPU is meant, as ``"cpu"`` or ``"cpu:0"``, without importing torch."""
    return str(device) in {"cpu", "cpu:0"}


def resolve_device(device: torch.device | str) -> torch.device:
    """Return a CUDA device with its number; ``"cuda"`` alone is the caller's current one.

    Raises
    ------
    PlacementError
        With code ``device`` for anything but a CUDA device that exists, ``no-cuda`` when torch
        finds none at all.
    MissingExtraError
        When torch is not installed.
    """
    require("torch", extra="torch")
    import torch

    try:
        wanted = torch.device(device)
    except (RuntimeError, TypeError, ValueError, OverflowError) as error:
        raise PlacementError(
            f"expected a device such as 'cpu' or 'cuda:0', got {device!r}", code="device"
        ) from error
    if wanted.type != "cuda":
        raise PlacementError(f"expected 'cpu' or a CUDA device, got '{wanted}'", code="device")
    if not torch.cuda.is_available():
        built = "was built without CUDA" if torch.version.cuda is None else "finds no device"
        raise PlacementError(
            f"expected a CUDA device, got torch {torch.__version__}, which {built}",
            hint="use device='cpu', or install a CUDA build of torch",
            code="no-cuda",
        )
    number: int | None = wanted.index
    index = torch.cuda.current_device() if number is None else number
    if not 0 <= index < torch.cuda.device_count():
        raise PlacementError(
            f"expected a device of cuda:0 to cuda:{torch.cuda.device_count() - 1}, got '{wanted}'",
            code="device",
        )
    return torch.device("cuda", index)
