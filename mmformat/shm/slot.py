"""A place in the arena that is being written."""

from __future__ import annotations

import contextlib
import time
import weakref
from types import TracebackType
from typing import TYPE_CHECKING, Self

import numpy as np

from mmformat.errors import TransportError
from mmformat.shm.extents import Extent
from mmformat.shm.handle import Handle
from mmformat.shm.layout import DIGEST_NBYTES

if TYPE_CHECKING:
    import mmap

    from mmformat.shm.producer import ShmArena

__all__ = ["Slot"]


class Slot:
    """Hold a reserved range until it is sealed, once, or abandoned.

    Made by :meth:`ShmArena.reserve`; a context manager that abandons what was not sealed.

    Notes
    -----
    **Lifetime**: a tensor or view made from :attr:`view` keeps the bytes from being used again,
    also after the seal; whoever writes through it then breaks the promise to the readers.
    """

    __slots__ = ("__weakref__", "_arena", "_done", "_extent", "_record", "_started_s", "_view")

    def __init__(self, arena: ShmArena, record: int, *, extent: Extent, mapping: mmap.mmap) -> None:
        self._arena = arena
        self._record = record
        self._extent = extent
        self._done = False
        self._started_s = time.monotonic()
        # An array of our own per slot: every view, slice or tensor made from the memoryview keeps
        # it alive, so a weak reference says whether anybody still looks at these bytes.
        owner = np.frombuffer(mapping, np.uint8, count=extent.nbytes, offset=extent.offset)
        extent.writer = weakref.ref(owner)
        self._view: memoryview | None = owner.data

    @property
    def view(self) -> memoryview:
        """The bytes to write, starting on a page.

        Raises
        ------
        TransportError
            With code ``slot-sealed`` after the seal.
        """
        if self._view is None:
            raise TransportError("expected a slot that is not sealed yet", code="slot-sealed")
        return self._view

    @property
    def nbytes(self) -> int:
        """Bytes that may be written."""
        return self._extent.nbytes

    @property
    def offset(self) -> int:
        """Where the slot starts in the segment."""
        return self._extent.offset

    def seal(self, nbytes: int | None = None, *, identity: bytes = b"") -> Handle:
        """Declare the bytes written and grant them to every reader that is not gone.

        Parameters
        ----------
        nbytes : int, optional
            How many were written; whole pages behind them are given back.
        identity : bytes, optional
            At most 32 bytes that name the content: :meth:`ShmArena.find` finds it again by them.

        Raises
        ------
        TransportError
            With code ``slot-sealed``, ``slot-nbytes``, ``identity``, ``closed`` or ``forked``.

        Notes
        -----
        **Copies**: none.
        """
        if self._done:
            raise TransportError("expected a slot that is not sealed yet", code="slot-sealed")
        size = self._extent.nbytes if nbytes is None else nbytes
        if not 1 <= size <= self._extent.nbytes:
            raise TransportError(
                f"expected 1 to {self._extent.nbytes:,} bytes, got {size:,}", code="slot-nbytes"
            )
        if not isinstance(identity, bytes):
            raise TransportError(f"expected bytes, got {type(identity).__name__}", code="identity")
        if len(identity) > DIGEST_NBYTES:
            raise TransportError(
                f"expected at most {DIGEST_NBYTES} bytes, got {len(identity)}", code="identity"
            )
        self._finish()
        handle = self._arena._seal(self._record, self._extent, size, identity)
        self._arena._observe_put(self._started_s)
        return handle

    def abandon(self) -> None:
        """Give the range back unsealed; a second call, or one after the seal, does nothing."""
        if not self._done:
            self._finish()
            self._arena._abandon(self._record, self._extent)

    def _finish(self) -> None:
        self._done = True
        view, self._view = self._view, None
        if view is not None:
            with contextlib.suppress(BufferError):  # the extent's weak reference knows who looks
                view.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.abandon()

    def __del__(self) -> None:
        if not getattr(self, "_done", True):
            # The collector may run inside the arena's own lock: leave a note and touch nothing.
            self._view = None
            self._arena._lost.append((self._record, self._extent))
