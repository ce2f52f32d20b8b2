"""A rank's side of the arena: a handle in, inputs out."""

from __future__ import annotations

import os
import time
from types import TracebackType
from typing import Self

from mmformat.codec import decode
from mmformat.codec.decode import Library
from mmformat.errors import TransportError
from mmformat.model.item import MultimodalInputs
from mmformat.model.limits import Limits
from mmformat.model.message import EncodedMessage
from mmformat.transport.shm import Handle, ShmReader
from mmformat.transport.shm.segment import SHM_DIRECTORY

__all__ = ["ArenaReader"]

_NOT_YET = ("segment-gone", "segment-creating")
"""What a rank meets that starts before its producer."""


class ArenaReader:
    """Read what the producer put, as one numbered rank.

    Made by :meth:`mmformat.Arena.attach`; a context manager that detaches.

    Notes
    -----
    **Lifetime**: a slot is held until the last tensor made from it is collected.
    """

    def __init__(self, transport: ShmReader) -> None:
        self._transport = transport

    @classmethod
    def attach(
        cls,
        handle_or_name: Handle | bytes | str,
        *,
        reader: int,
        directory: str | os.PathLike[str] = SHM_DIRECTORY,
        timeout_s: float = 0.0,
    ) -> Self:
        """Attach to the arena of a handle, its bytes, or its name; see :meth:`Arena.attach`."""
        target = handle_or_name if isinstance(handle_or_name, str) else _handle(handle_or_name)
        deadline_s = time.monotonic() + timeout_s
        while True:
            try:
                return cls(ShmReader.attach(target, reader=reader, directory=directory))
            except TransportError as error:
                if error.code not in _NOT_YET or time.monotonic() >= deadline_s:
                    raise
            time.sleep(0.005)

    def get(
        self,
        handle: Handle | bytes | EncodedMessage,
        *,
        device: str = "cpu",
        limits: Limits | None = None,
        library: Library | None = None,
        expand: bool = True,
    ) -> MultimodalInputs:
        """Decode the inputs of a handle over a private view of the slot's pages.

        Parameters
        ----------
        handle : Handle, its bytes, or EncodedMessage
            What the producer announced; a message that came inline is decoded as it is.
        device : str, default "cpu"
            Where the tensors are wanted.
        limits, library, expand
            As in :func:`mmformat.decode`.

        Raises
        ------
        StaleHandleError
            When the content is gone, or this rank released it.
        DecodeError
            When the slot holds no valid message.

        Notes
        -----
        **Copies**: none; a page that the rank writes to is copied by the kernel, and nobody else
        sees the change. **Lifetime**: the tensors keep the slot; the last one releases it.
        """
        source = (
            handle if isinstance(handle, EncodedMessage) else self._transport.map(_handle(handle))
        )
        return decode(source, device, limits=limits, library=library, expand=expand)

    def release(self, handle: Handle | bytes) -> None:
        """Say that this rank needs the slot no more; without this call the collector says it.

        Raises
        ------
        TransportError
            With code ``views-alive`` while a tensor still looks at the slot.
        StaleHandleError
            When it was released already.
        """
        self._transport.release(_handle(handle))

    @property
    def producer_alive(self) -> bool:
        """Whether the producer still lives; what it sealed stays readable if not."""
        return self._transport.producer_alive

    def close(self) -> None:
        """Detach; slots that tensors still look at are released when these go."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"ArenaReader({self._transport!r})"


def _handle(value: Handle | bytes) -> Handle:
    if isinstance(value, Handle):
        return value
    if isinstance(value, (bytes, bytearray, memoryview)):
        return Handle.from_bytes(bytes(value))
    raise TransportError(
        f"expected a handle or its bytes, got {type(value).__name__}", code="handle"
    )
