"""An encoded message as buffers."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from mmformat._arrow import buffer_of
from mmformat._files import written_whole
from mmformat.errors import ModelError, TransportError
from mmformat.model.arguments import check_path
from mmformat.model.tensors import StridedBytes

if TYPE_CHECKING:
    from mmformat._arrow import Buffer

__all__ = ["EncodedMessage"]


class EncodedMessage:
    """An encoded message as frames: buffers that form one Arrow IPC stream.

    Parameters
    ----------
    frames : sequence of buffers
        In stream order. Tensor frames are the tensors' own memory, or a StridedBytes.

    Raises
    ------
    ModelError
        If a frame is not a contiguous buffer.

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

    __slots__ = ("_parts", "nbytes")

    def __init__(self, frames: Sequence[Buffer | bytes | memoryview | StridedBytes]) -> None:
        if not isinstance(frames, (list, tuple)) or not _FRAMES.issuperset(map(type, frames)):
            frames = _checked(frames)
        self._parts: tuple[Buffer | bytes | memoryview | StridedBytes, ...] = tuple(frames)
        self.nbytes: int = sum(map(len, self._parts))

    @classmethod
    def of_frames(
        cls, frames: Sequence[Buffer | bytes | memoryview | StridedBytes], nbytes: int
    ) -> EncodedMessage:
        """Return a message of frames that were checked and counted already."""
        made = cls.__new__(cls)
        made._parts = tuple(frames)
        made.nbytes = nbytes
        return made

    @property
    def frames(self) -> tuple[Buffer | bytes | memoryview, ...]:
        """The buffers that, joined, are the message; a view with strides is copied for it."""
        if any(type(part) is StridedBytes for part in self._parts):
            self._parts = tuple(
                [part.buffer() if isinstance(part, StridedBytes) else part for part in self._parts]
            )
        return self._parts  # type: ignore[return-value]  # no StridedBytes is left

    @property
    def head(self) -> bytes:
        """The first frame: schema, metadata and columns."""
        return bytes(self._parts[0]) if self._parts else b""  # type: ignore[arg-type]

    def __repr__(self) -> str:
        return f"EncodedMessage({len(self._parts)} frames, {self.nbytes:,} bytes)"

    def __bytes__(self) -> bytes:
        return b"".join(self.frames)

    def __iter__(self) -> Iterator[Buffer | bytes | memoryview]:
        return iter(self.frames)

    def write_into(self, target: memoryview) -> int:
        """Copy the message to the start of ``target`` and return the number of bytes.

        Raises
        ------
        TransportError
            If the target is too small, read-only, or not a buffer.

        Notes
        -----
        **Copies**: every byte once.
        """
        # numpy's copy lets other threads run; a memoryview's does not.
        try:
            destination = np.frombuffer(target, np.uint8)
        except (TypeError, ValueError, BufferError) as error:
            raise TransportError(
                f"expected a buffer to write, got {type(target).__name__}: {error}", path="$.target"
            ) from error
        if destination.size < self.nbytes or not destination.flags.writeable:
            what = "" if destination.flags.writeable else " that are read-only"
            raise TransportError(
                f"expected {self.nbytes:,} bytes of room, got {destination.size:,}{what}"
            )
        position = 0
        for part in self._parts:
            end = position + len(part)
            if isinstance(part, StridedBytes):
                part.write_into(destination[position:end])
            else:
                destination[position:end] = np.frombuffer(memoryview(part), np.uint8)
            position = end
        return position

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the message to a file: whole or not at all.

        A new file is readable by its owner alone; one that is replaced keeps its mode. A symbolic
        link stands for its target, and a pipe or a character device is written to directly.

        Raises
        ------
        TransportError
            If the file cannot be written; no partial file is left.
        """
        with written_whole(check_path(path, name="path", error=TransportError)) as file:
            for frame in self.frames:
                file.write(frame)


_FRAMES: Final = frozenset({bytes, type(buffer_of(b"")), StridedBytes})
"""The types that :func:`mmformat.encode` makes."""


def _checked(frames: object) -> list[Any]:
    """Return frames as buffers of bytes."""
    if isinstance(frames, (str, bytes, bytearray)) or not isinstance(frames, Iterable):
        raise ModelError(
            f"expected a sequence of buffers, got {type(frames).__name__}", path="$.frames"
        )
    checked: list[Any] = []
    for index, frame in enumerate(frames):
        if type(frame) in _FRAMES:
            checked.append(frame)
            continue
        try:
            view = memoryview(frame)
            checked.append(view.cast("B") if view.nbytes else b"")
        except (TypeError, ValueError, BufferError) as error:
            raise ModelError(
                f"expected a contiguous buffer, got {type(frame).__name__}",
                path=f"$.frames[{index}]",
            ) from error
    return checked
