"""A private mapping of one slot, which releases the slot after it is gone."""

from __future__ import annotations

import mmap
import sys
from typing import TYPE_CHECKING, Any, Final, Self

from mmformat.shm.huge_pages import room_for
from mmformat.shm.layout import PAGE

if TYPE_CHECKING:
    from mmformat.shm.handle import Handle
    from mmformat.shm.reader import ShmReader

__all__ = ["Mapping"]

_POPULATE_WRITE: Final = 23
# Before 3.13 every mapping keeps a duplicate of the descriptor for as long as it lives.
_OPTIONS: Final[dict[str, Any]] = {"trackfd": False} if sys.version_info >= (3, 13) else {}


class Mapping(mmap.mmap):
    """Own the pages of one get; tensors made from it keep it, and it keeps the slot.

    Made by :meth:`ShmReader.map`. It has the writable buffer protocol and takes weak references.

    Notes
    -----
    **Copies**: none; a page is copied by the kernel when it is first written to.
    **Lifetime**: when the last buffer over it is gone, the pages are unmapped, and only then is
    the slot's release word written.
    """

    _reader: ShmReader | None = None
    _key: tuple[int, int]
    _kept: object = None

    @classmethod
    def of(cls, handle: Handle, *, fd: int) -> Self:
        """Map the slot of a handle that was checked."""
        # No MADV_POPULATE_READ: beside the kernel's own fault-around it won 4 % at 25.8 MB, lost a
        # third at 0.6 MB, and made this call wait for pages that may never be looked at.
        with room_for(handle.nbytes, handle.offset):
            return cls(
                fd,
                handle.nbytes,
                flags=mmap.MAP_PRIVATE,
                prot=mmap.PROT_READ | mmap.PROT_WRITE,
                offset=handle.offset,
                **_OPTIONS,
            )

    def belong_to(self, reader: ShmReader, handle: Handle) -> None:
        """Release the slot of this handle when the pages are gone."""
        self._key = (handle.slot, handle.generation)
        self._reader = reader

    def keep(self, value: object) -> None:
        """Keep something alive for as long as the pages are mapped."""
        self._kept = value

    def make_private(self) -> None:
        """Copy every page, so that the slot may be used again without this view changing."""
        if self.closed:
            return
        try:
            self.madvise(_POPULATE_WRITE)
        except OSError:
            for start in range(0, len(self), PAGE):
                self[start] = self[start]

    def close(self) -> None:
        """Unmap, then tell the reader; a second call does nothing.

        Raises
        ------
        BufferError
            While a tensor or view over it is alive.
        """
        super().close()
        reader, self._reader = self._reader, None
        self._kept = None
        if reader is not None:
            reader._claims.unclaim(self._key)

    def __del__(self) -> None:
        try:
            self.close()
        except BufferError:
            # Part of a reference cycle: the collector came here before the buffers were gone.
            if self._reader is not None:
                self._reader._stuck.append(self)
