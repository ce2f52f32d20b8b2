"""Let go of host memory when the device has read it, while nobody waits."""

from __future__ import annotations

import logging
import queue
import threading
import time
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeAlias

if TYPE_CHECKING:
    import torch

__all__ = ["Releases"]

_LOG: Final = logging.getLogger("mmformat.cuda")

POLL_S: Final = 0.0005
"""How often the thread looks: long against a look, short against what fills an arena."""

_Entry: TypeAlias = tuple["torch.cuda.Event", Callable[[], None]]


class Releases:
    """Call back when an event has happened, from one small thread.

    Notes
    -----
    A rank that is idle after a get still gives its slot back. The thread looks at its events every
    half millisecond instead of waiting for them: it would wake at the very moment at which the
    rank's own thread does, and hold Python's lock while that one wants to go on. It starts at the
    first event and ends with :meth:`close` or with this object.
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
    waiting: list[_Entry] = []
    while True:
        added = [] if waiting else [entries.get()]
        if added != [None]:
            time.sleep(POLL_S)
        while not entries.empty():
            added.append(entries.get())
        waiting += [entry for entry in added if entry is not None]
        is_last = None in added
        del added
        waiting = [entry for entry in waiting if not _let_go(entry, wait=is_last)]
        if is_last:
            return


def _let_go(entry: _Entry, *, wait: bool) -> bool:
    """Call the release if the event has happened, and say whether it had."""
    event: Any = entry[0]  # torch leaves its events untyped
    try:
        if wait:
            event.synchronize()
        elif not event.query():
            return False
    except RuntimeError as error:
        # The context is broken, and nothing reads the memory any more.
        _LOG.warning("a copy to the device failed: %s", error)
    entry[1]()
    return True
