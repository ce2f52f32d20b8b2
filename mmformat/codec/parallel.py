"""Work shared among all cores, the calling thread's included."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from mmformat._arrow import core_count

__all__ = [
    "on_all_cores",
]

MOST_THREADS: Final = 32
"""More than memory keeps busy; on a host of 200 cores they would only take time to start."""

T = TypeVar("T")
R = TypeVar("R")


def on_all_cores(work: Callable[[T], R], parts: Sequence[T]) -> list[R]:
    """Return the work's result for each part, in order.

    Raises
    ------
    Exception
        The first that any part raised; parts that were not begun are left undone then.

    Notes
    -----
    **Cost**: a thread is started for each core but one, for this call alone: some 50 us each, and
    nothing stays behind that a fork could break. So share out work of a millisecond or more.
    """
    results: dict[int, R] = {}
    errors: list[BaseException] = []
    lock = threading.Lock()
    left = iter(range(len(parts)))

    def run() -> None:
        try:
            while not errors:
                with lock:
                    at = next(left, None)
                if at is None:
                    return
                results[at] = work(parts[at])
        except BaseException as error:
            errors.append(error)

    threads = [
        threading.Thread(target=run, name=f"mmformat-codec-{number}", daemon=True)
        for number in range(1, min(core_count(), len(parts), MOST_THREADS))
    ]
    begun = []
    for thread in threads:
        try:
            thread.start()
        except RuntimeError:
            break  # no more threads are to be had, or the interpreter ends: those there are do it
        begun.append(thread)
    run()
    for thread in begun:
        thread.join()
    if errors:
        raise errors[0]
    return [results[at] for at in range(len(parts))]
