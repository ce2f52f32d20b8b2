"""Order the stores of one process, on processors that would not by themselves."""

from __future__ import annotations

import threading

__all__ = ["fence"]


def fence() -> None:
    """Let every load and store before this call be seen before every store after it.

    Notes
    -----
    Python has no fence of its own. Giving a lock back is a store-release, taking it is a
    load-acquire, and on aarch64 (STLR, then LDAXR or CASA) these two keep their order, so what
    stands before the first cannot pass what stands after the second. On x86-64 plain stores
    already keep their order. docs/arena.md has the whole argument.
    """
    # A lock of its own: nothing that interrupts this call (a signal, the collector) can wait on it.
    lock = threading.Lock()
    lock.acquire()
    lock.release()
    lock.acquire()
