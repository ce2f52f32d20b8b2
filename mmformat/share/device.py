"""A rank's way from the arena to its device: pinned where it lies, or staged when that fails."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Final

from mmformat.codec.spans import Spans
from mmformat.errors import PlacementError
from mmformat.model.limits import Limits
from mmformat.placement.lane import Lane
from mmformat.placement.registration import Registration
from mmformat.placement.releases import Releases
from mmformat.placement.stats import PlacementStats
from mmformat.share.decoding import decode_staged, decode_with, lend, room_in
from mmformat.share.pending import PendingInputs
from mmformat.transport.shm import Handle, ShmReader

if TYPE_CHECKING:
    import torch

__all__ = ["ArenaOnDevice"]

_LOG: Final = logging.getLogger("mmformat.placement")
_DEFAULT_LIMITS: Final = Limits()


class ArenaOnDevice:
    """Bring slots of one arena to the devices of one rank.

    Parameters
    ----------
    transport : ShmReader
        The rank.
    device : torch.device
        Its device, for the first pinning; other devices of the process use it too.
    pin : bool
        Whether to pin the arena; otherwise everything is staged.
    """

    def __init__(self, transport: ShmReader, device: torch.device, *, pin: bool) -> None:
        self.stats = PlacementStats()
        self._transport = transport
        self._pid = os.getpid()
        self._releases = Releases()
        self._mapping, self._first = transport.map_data()
        self._registration: Registration | None = None
        if pin and device.type == "cuda":
            try:
                self._registration = Registration(self._mapping, device=device)
                self.stats.registered = True
            except PlacementError as error:
                self.stats.reason = str(error)
                _LOG.warning("the arena is staged, and slower: %s (hint: %s)", error, error.hint)
        elif not pin:
            self.stats.reason = "pin=False"
        self._view = memoryview(self._mapping).toreadonly()

    def fetch(
        self,
        handle: Handle,
        *,
        lane: Lane,
        limits: Limits | None,
        expand: bool,
        out: torch.Tensor | None,
    ) -> PendingInputs:
        """Start the copy of a slot, and decode it meanwhile.

        Raises
        ------
        StaleHandleError, DecodeError, LimitError, PlacementError
            As :meth:`ArenaReader.get`.

        Notes
        -----
        The bytes are copied before they are checked, and are only bytes until they were: no view
        of them is made for a message that is not valid.
        """
        bounds = limits or _DEFAULT_LIMITS
        bounds.check("message_nbytes", handle.nbytes)
        hold = self._transport.hold(handle)
        copied = None
        try:
            if out is not None:
                lend(out, lane)
            at = handle.offset - self._first
            source = None if self._registration is None else self._registration.tensor
            with lane.side():
                if source is not None:
                    buffer = room_in(out, handle.nbytes, lane=lane)
                    buffer.copy_(source[at : at + handle.nbytes], non_blocking=True)
                    copied = lane.mark()
                view = self._view[at : at + handle.nbytes]
                if source is None:
                    inputs, tensors = decode_staged(
                        view, lane=lane, limits=bounds, expand=expand, out=out
                    )
                    self.stats.staged_messages += 1
                    is_busy = True
                else:
                    inputs, tensors, is_busy = decode_with(
                        Spans([view]), buffer, lane=lane, limits=bounds, expand=expand
                    )
                ready = lane.mark() if is_busy else copied
        finally:
            # Here, not right behind the copy: decoding reads the slot, too. Staged bytes were read
            # when decoding came back.
            self._releases.add(copied, hold.release)
        self.stats.messages += 1
        self.stats.nbytes += handle.nbytes
        return PendingInputs(inputs, lane=lane, event=ready, tensors=tensors)

    def close(self) -> None:
        """Wait for the copies under way, then unpin; a second call does nothing."""
        if os.getpid() != self._pid:
            return  # a forked child: the device, the copies and the pinning are its parent's
        self._releases.close()
        if self._registration is not None:
            self._registration.close()
            self._registration = None
        try:
            self._view.release()
            self._mapping.close()
        except BufferError:
            # A caller's traceback still looks at it; it goes with that.
            return
