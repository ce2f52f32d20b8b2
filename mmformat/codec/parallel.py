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
"""More threads than memory bandwidth can feed only take time to start."""

T = TypeVar("T")
R = TypeVar("R")


def on_all_cores(work: Callable[[T], R], parts: Sequence[T]) -> list[R]:
    """Return the work's result for each part, in order.

    Raises
    ------
    Exception
        The first that any part raised; parts not yet started are skipped.

    Notes
    -----
    **Cost**: starts one thread for each further core, about 50 us each, for this call only; no
    thread remains that a fork could break. Use it for a millisecond of work or more.
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
            break  # no more threads can start, or the interpreter is shutting down
        begun.append(thread)
    run()
    for thread in begun:
        thread.join()
    if errors:
        raise errors[0]
    return [results[at] for at in range(len(parts))]
