"""What the owner of an arena can ask of it at any time, and how it ends."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from mmformat.arena.arguments import check_timeout
from mmformat.errors import TransportError
from mmformat.shm import ArenaStats, Handle, ShmArena

__all__ = ["OwnedArena"]


class OwnedArena:
    """Own one segment: its name, its counts, and its end."""

    def __init__(self, transport: ShmArena) -> None:
        self._transport = transport

    def fileno(self) -> int:
        """Return the segment's descriptor, to send to ranks with ``socket.send_fds``."""
        return self._transport.fileno()

    @property
    def transport(self) -> ShmArena:
        """The segment's producer, for rooms that move whole messages in or out."""
        return self._transport

    @property
    def name(self) -> str:
        """The arena's name, which :meth:`attach` takes."""
        return self._transport.name

    def revoke(self, handle: Handle) -> None:
        """Take back a handle that no rank was sent; content with an identity stays known.

        Parameters
        ----------
        handle : Handle
            As :meth:`Arena.put` gave it, with ``reuse="request"``.

        Raises
        ------
        TransportError
            With code ``arena-argument`` for a handle that stands for several slots, ``closed`` or
            ``forked``.

        Notes
        -----
        A handle that was revoked or released before is nothing to take back. Its slot is used
        again: whoever was sent it all the same may read other content.
        """
        if not isinstance(handle, Handle):
            raise TransportError(
                f"expected a handle, got {type(handle).__name__}",
                path="$.handle",
                code="arena-argument",
            )
        if handle.composed:
            raise TransportError("expected a handle of one slot", code="arena-argument")
        if handle.segment_id != self._transport.segment_id:
            raise TransportError(
                f"handle belongs to arena {handle.name}, not to {self.name}",
                path="$.handle",
                code="arena-argument",
            )
        self._transport.revoke(handle)

    def reap(self) -> int:
        """Take back what dead ranks held, and return how many slots that were."""
        return self._transport.reap()

    def wait_released(self, *, timeout_s: float) -> bool:
        """Wait until no rank holds any slot, and say whether that came to be in time.

        Raises
        ------
        TransportError
            With code ``arena-argument``, ``closed`` or ``forked``.
        """
        check_timeout(timeout_s)
        deadline_s = time.monotonic() + timeout_s
        while self.stats().slots_granted:
            self._transport.reap()
            if time.monotonic() > deadline_s:
                return False
            time.sleep(0.001)
        return True

    def stats(self) -> ArenaStats:
        """Return what the arena holds and did."""
        return self._transport.stats()

    def close(self) -> None:
        """Remove the segment's name; a second call does nothing."""
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
        return f"{type(self).__name__}({self._transport!r})"
