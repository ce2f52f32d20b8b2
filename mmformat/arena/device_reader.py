"""A rank's way from the arena to its device: pinned where it lies, or staged when that fails."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from mmformat.codec.chained_buffer import ChainedBuffer
from mmformat.codec.record_batch import is_compressed
from mmformat.cuda.copy_stream import Lane
from mmformat.cuda.decode import decode_staged, decode_with, lend, room_in
from mmformat.cuda.event_callbacks import Releases
from mmformat.cuda.metrics import RankMetrics
from mmformat.cuda.pending_inputs import PendingInputs
from mmformat.cuda.registration import Registration
from mmformat.cuda.stats import PlacementStats
from mmformat.errors import PlacementError
from mmformat.model.limits import Limits
from mmformat.shm import Handle, Hold, ShmReader

if TYPE_CHECKING:
    import torch

__all__ = ["ArenaOnDevice"]

_LOG: Final = logging.getLogger("mmformat.cuda")


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
    registry : prometheus_client.CollectorRegistry, optional
        Where to register metrics.
    """

    def __init__(
        self,
        transport: ShmReader,
        device: torch.device,
        *,
        pin: bool,
        registry: object | None = None,
    ) -> None:
        self.stats = PlacementStats()
        self._metrics = RankMetrics(self.stats, registry, arena=transport.name, device=str(device))
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
        bounds = Limits.of(limits)
        bounds.check("message_nbytes", handle.nbytes)
        hold = self._transport.hold(handle)
        started_s = time.monotonic()
        at = handle.offset - self._first
        view = self._view[at : at + handle.nbytes]
        # Compressed bytes are of no use on the device, which would wait for them.
        pinned = None if is_compressed(view) else self._registration
        done = None
        try:
            room = None
            if out is not None:
                lend(out, lane)
            elif pinned is not None:
                room = lane.ahead(handle.nbytes)
                if room is not None:
                    lane.bring(room, pinned.address + at, handle.nbytes)
            with lane.side():
                if pinned is not None:
                    if room is None:
                        room = room_in(out, handle.nbytes, lane=lane)
                        lane.bring(room, pinned.address + at, handle.nbytes)
                    try:
                        inputs, tensors = decode_with(
                            ChainedBuffer([view]), room, lane=lane, limits=bounds, expand=expand
                        )
                    finally:
                        if out is None:
                            lane.prepare(handle.nbytes)
                        # Behind the copy, also when the message is not valid. One event for copy
                        # and expansion: the slot is let go some microseconds later for it.
                        done = lane.mark()
                    ready = done
                else:
                    inputs, tensors = decode_staged(
                        view, lane=lane, limits=bounds, expand=expand, out=out
                    )
                    ready = lane.mark()
                    self.stats.staged_messages += 1
        finally:
            # Staged bytes were read when decoding came back.
            self._releases.add(done, self._letting_go(hold, started_s))
        self.stats.messages += 1
        self.stats.nbytes += handle.nbytes
        self._metrics.returned(started_s)
        return PendingInputs(inputs, lane=lane, event=ready, tensors=tensors)

    def _letting_go(self, hold: Hold, started_s: float) -> Callable[[], None]:
        metrics = self._metrics

        def release() -> None:
            hold.release()
            metrics.placed(started_s)

        return release

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
