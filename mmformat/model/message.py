"""A message as the buffers that it is made of."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mmformat.errors import TransportError

if TYPE_CHECKING:
    from mmformat._arrow import Buffer

__all__ = ["EncodedMessage"]


class EncodedMessage:
    """Hold an encoded message as frames: buffers that, joined, are one Arrow IPC stream.

    Parameters
    ----------
    frames : sequence of buffers
        In stream order. Tensor frames are the tensors' own memory.

    Notes
    -----
    **Copies**: none; :meth:`__bytes__` makes one. **Lifetime**: the frames keep the tensors alive,
    and a tensor that is written to after encoding changes the message, or makes it invalid.

    Examples
    --------
    >>> import mmformat as mm
    >>> message = mm.encode(mm.MultimodalInputs())
    >>> message.nbytes == len(bytes(message))
    True
    """

    __slots__ = ("frames", "nbytes")

    def __init__(self, frames: Sequence[Buffer | bytes | memoryview]) -> None:
        self.frames: tuple[Buffer | bytes | memoryview, ...] = tuple(frames)
        self.nbytes: int = sum(len(frame) for frame in self.frames)

    def __repr__(self) -> str:
        return f"EncodedMessage({len(self.frames)} frames, {self.nbytes:,} bytes)"

    def __bytes__(self) -> bytes:
        return b"".join(self.frames)

    def __iter__(self) -> Iterator[Buffer | bytes | memoryview]:
        return iter(self.frames)

    def write_into(self, target: memoryview) -> int:
        """Copy the message to the start of ``target`` and return the number of bytes.

        Raises
        ------
        TransportError
            When the target is too small.

        Notes
        -----
        **Copies**: every byte once.
        """
        if len(target) < self.nbytes:
            raise TransportError(f"expected {self.nbytes:,} bytes of room, got {len(target):,}")
        # numpy's copy lets other threads run; a memoryview's does not.
        destination = np.frombuffer(target, np.uint8)
        position = 0
        for frame in self.frames:
            source = np.frombuffer(memoryview(frame), np.uint8)
            destination[position : position + source.size] = source
            position += source.size
        return position

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the message to a file: whole or not at all, readable by its owner alone.

        Raises
        ------
        TransportError
            When the file cannot be written; no partial file is left.
        """
        target = Path(path)
        temporary = None
        try:
            descriptor, temporary = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
            with os.fdopen(descriptor, "wb") as file:
                for frame in self.frames:
                    file.write(frame)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).replace(target)
        except OSError as error:
            if temporary is not None:
                Path(temporary).unlink(missing_ok=True)
            raise TransportError(f"expected to write {target}, got: {error}") from error
