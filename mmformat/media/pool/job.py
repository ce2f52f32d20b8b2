"""One request in a pool: settled once, by whoever comes first, and the queue that it waits in."""

from __future__ import annotations

import heapq
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future

from mmformat.errors import MaterializeError
from mmformat.model.item import MultimodalInputs

__all__ = ["Job", "Queue"]


class Job:
    """Hold a request and its future; the result, an error, a cancellation or the deadline wins.

    The future stays pending until then, so that it can be cancelled while the request runs.
    """

    __slots__ = ("_lock", "_settled", "_stop", "deadline_s", "expires_at_s", "future", "inputs")

    def __init__(self, inputs: MultimodalInputs, deadline_s: float | None) -> None:
        self.inputs = inputs
        self.deadline_s = deadline_s
        self.expires_at_s = None if deadline_s is None else time.monotonic() + deadline_s
        self.future: Future[MultimodalInputs] = Future()
        self._lock = threading.Lock()
        self._settled = False
        self._stop: Callable[[], None] | None = None

    @property
    def is_over(self) -> bool:
        """Whether nobody waits for a result any more."""
        return self._settled or self.future.done()

    def finish(self, result: MultimodalInputs) -> None:
        """Set the result, unless the request is over."""
        if self._settle():
            self.future.set_result(result)

    def fail(self, error: BaseException) -> None:
        """Set the error, unless the request is over."""
        if self._settle():
            self.future.set_exception(error)

    def expire(self) -> None:
        """Fail because the deadline passed, and stop the worker if it can be stopped."""
        error = MaterializeError(
            f"expected a result within {self.deadline_s} s, got none",
            path="$.items",
            hint="raise deadline_s, or give the pool more workers",
            code="deadline",
        )
        with self._lock:
            if self._settled or self.future.done():
                return
            # Settled before the worker is stopped, or its death would look like a crash.
            self._settled = True
            if self._stop is not None:
                self._stop()
        if self.future.set_running_or_notify_cancel():
            self.future.set_exception(error)

    def runs_with(self, stop: Callable[[], None] | None) -> None:
        """Say how the worker that runs this can be stopped; None when it no longer does."""
        with self._lock:
            self._stop = stop

    def drop(self) -> None:
        """Tell those who wait that a cancelled request was taken out."""
        self._settle()

    def _settle(self) -> bool:
        with self._lock:
            if self._settled:
                return False
            self._settled = True
        return self.future.set_running_or_notify_cancel()


class Queue:
    """Hold at most ``size`` waiting jobs, in order, and expire those whose deadline passes.

    Parameters
    ----------
    size : int
        Jobs that wait; those that run are not counted.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._jobs: deque[Job] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._deadlines: list[tuple[float, int, Job]] = []
        self._count = 0
        self._keeper: threading.Thread | None = None

    def __len__(self) -> int:
        return len(self._jobs)

    def put(self, job: Job, *, timeout_s: float | None) -> None:
        """Append a job, waiting for room at most ``timeout_s`` (None: as long as it takes).

        Raises
        ------
        MaterializeError
            When there is no room in that time, or the queue is closed.
        """
        until_s = None if timeout_s is None else time.monotonic() + timeout_s
        job.future.add_done_callback(lambda _: self._forget(job))
        with self._changed:
            self._watch(job)
            while len(self._jobs) >= self._size and not self._closed and not job.is_over:
                left_s = None if until_s is None else until_s - time.monotonic()
                if left_s is not None and left_s <= 0:
                    error = MaterializeError(
                        f"expected room for a request within {timeout_s} s, got a queue of "
                        f"{self._size} that is full",
                        hint="submit later, or give the pool more workers or a larger queue_size",
                        code="pool-full",
                    )
                    job.fail(error)
                    raise error
                self._changed.wait(left_s)
            if self._closed:
                closed = MaterializeError("expected an open pool, got one that was closed",
                                          code="pool-closed")  # fmt: skip
                job.fail(closed)
                raise closed
            if not job.is_over:
                self._jobs.append(job)
                self._changed.notify_all()

    def take(self) -> Job | None:
        """Return the next job, or None when the queue is closed and empty."""
        with self._changed:
            while not self._jobs:
                if self._closed:
                    return None
                self._changed.wait()
            job = self._jobs.popleft()
            self._changed.notify_all()
            return job

    def close(self, *, cancel: bool) -> None:
        """Accept no more jobs; with ``cancel`` those that wait are cancelled."""
        with self._changed:
            self._closed = True
            waiting = list(self._jobs) if cancel else []
            self._changed.notify_all()
        for job in waiting:
            job.future.cancel()

    def _forget(self, job: Job) -> None:
        # A job that is over makes room at once.
        with self._changed:
            if job in self._jobs:
                self._jobs.remove(job)
            self._changed.notify_all()
        if job.future.cancelled():
            job.drop()

    def _watch(self, job: Job) -> None:
        if job.expires_at_s is None:
            return
        self._count += 1
        heapq.heappush(self._deadlines, (job.expires_at_s, self._count, job))
        if self._keeper is None or not self._keeper.is_alive():
            self._keeper = threading.Thread(
                target=self._keep_time, name="mmformat-deadlines", daemon=True
            )
            self._keeper.start()
        self._changed.notify_all()

    def _keep_time(self) -> None:
        while True:
            with self._changed:
                while self._deadlines and self._deadlines[0][2].is_over:
                    heapq.heappop(self._deadlines)
                if not self._deadlines:
                    self._keeper = None
                    return
                left_s = self._deadlines[0][0] - time.monotonic()
                if left_s > 0:
                    self._changed.wait(left_s)
                    continue
                job = heapq.heappop(self._deadlines)[2]
            job.expire()
