"""Where an arena's memory may come from, and how much of it may be asked for."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal, TypeAlias

from mmformat.errors import TransportError
from mmformat.model.arguments import check_path
from mmformat.shm.layout import MAX_READERS, MAX_SLOTS
from mmformat.shm.segment import SHM_DIRECTORY

__all__ = ["Backing", "check_counts", "directory_of"]

Backing: TypeAlias = Literal["shm", "file", "memfd"]
"""A file of /dev/shm, a file of a directory, or memory without a name."""


def check_counts(*, nbytes: int, ranks: int, slots: int) -> None:
    """Refuse an arena that no header could describe.

    Raises
    ------
    TransportError
        With code ``arena-argument``.
    """
    bounds = (("nbytes", nbytes, 2**62), ("ranks", ranks, MAX_READERS))
    for name, value, most in (*bounds, ("slots", slots, MAX_SLOTS)):
        if type(value) is not int:
            raise TransportError(
                f"expected an int, got {type(value).__name__}",
                path=f"$.{name}",
                code="arena-argument",
            )
        if not 1 <= value <= most:
            raise TransportError(
                f"expected {name} of 1 to {most:,}, got {value:,}", code="arena-argument"
            )


def directory_of(backing: str, directory: str | os.PathLike[str] | None) -> Path | None:
    """Return the directory of a backing; None for memory without a name.

    Raises
    ------
    TransportError
        With code ``arena-argument``.
    """
    if isinstance(backing, str):
        if backing == "memfd" and directory is None:
            return None
        if backing == "shm" and directory is None:
            return SHM_DIRECTORY
        if backing in ("shm", "file") and directory is not None:
            return check_path(
                directory, name="directory", error=TransportError, code="arena-argument"
            )
    raise TransportError(
        f"expected backing 'shm', 'memfd', or 'file' with a directory, got {backing!r}",
        code="arena-argument",
    )
