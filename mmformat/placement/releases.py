"""Let go of host memory when the device has read it, while nobody waits."""

from __future__ import annotations

import logging
import queue
import threading
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import torch

__all__ = ["Releases"]

_LOG: Final = logging.getLogger("mmformat.placement")

_Entry = tuple["torch.cuda.Event", Callable[[], None]]


class Releases:
    """Call back when an event has happened, from one small thread.

    Notes
    -----
    The thread sleeps in CUDA with Python let go, so a rank that is idle after a get still gives
    its slot back. It starts at the first event and ends with :meth:`close` or with this object.
    """

    def __init__(self) -> None:
        self._entries: queue.SimpleQueue[_Entry | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def add(self, event: torch.cuda.Event | None, release: Callable[[], None]) -> None:
        """Call ``release`` when ``event`` has happened; at once when there is none."""
        if event is None:
            release()
            return
        if self._thread is None:
            self._thread = threading.Thread(
                target=_serve, args=(self._entries,), name="mmformat-releases", daemon=True
            )
            self._thread.start()
            weakref.finalize(self, self._entries.put, None)
        self._entries.put((event, release))

    def close(self) -> None:
        """Wait until every release was called; more may be added afterwards."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._entries.put(None)
            thread.join()


def _serve(entries: queue.SimpleQueue[_Entry | None]) -> None:
    while (entry := entries.get()) is not None:
        event, release = entry
        try:
            event.synchronize()
        except RuntimeError as error:
            # The context is broken, and nothing reads the memory any more.
            _LOG.warning("a copy to the device failed: %s", error)
        release()
        del entry, event, release
