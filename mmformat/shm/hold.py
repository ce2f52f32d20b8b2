"""Keep a slot in use without a mapping of its own, until a device has read it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmformat.shm.handle import Handle
    from mmformat.shm.reader_state import Claims

__all__ = ["Hold"]


class Hold:
    """Hold one slot for whoever reads it through :meth:`ShmReader.map_data`.

    Made by :meth:`ShmReader.hold`.

    Notes
    -----
    **Lifetime**: the slot is released at :meth:`release`, or when this is collected.
    """

    __slots__ = ("_claims", "_key")

    def __init__(self, claims: Claims, handle: Handle) -> None:
        claims.claim(handle)
        self._claims: Claims | None = claims
        self._key = (handle.slot, handle.generation)

    def release(self) -> None:
        """Let the slot go; a second call does nothing."""
        claims, self._claims = self._claims, None
        if claims is not None:
            claims.unclaim(self._key)

    def __del__(self) -> None:
        # Absent when the claim was refused.
        if getattr(self, "_claims", None) is not None:
            self.release()
