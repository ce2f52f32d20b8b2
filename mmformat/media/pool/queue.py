"""A request in the pool, settled exactly once, and the queue where it waits."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future

from mmformat.errors import MaterializeError
from mmformat.model.item import MultimodalInputs

__all__ = ["PoolRequest", "RequestQueue"]


class PoolRequest:
    """A request and its future, settled by a result, error, cancellation or deadline.

    The future stays pending until then, so that it can be cancelled while the request runs.
    """

    __slots__ = ("_lock", "_settled", "_stop", "deadline", "future", "inputs", "timeout_s")

    def __init__(self, inputs: MultimodalInputs, timeout_s: float | None) -> None:
        self.inputs = inputs
        self.timeout_s = timeout_s
        self.deadline = None if timeout_s is None else time.monotonic() + timeout_s
        self.future: Future[MultimodalInputs] = Future()
        self._lock = threading.Lock()
        self._settled = False
        self._stop: Callable[[], None] | None = None

    @property
    def is_over(self) -> bool:
        """Whether the request is settled or cancelled."""
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
            f"the request did not finish within {self.timeout_s} s",
            path="$.items",
            hint="raise timeout_s, or give the pool more workers",
            code="deadline",
        )
        with self._lock:
            if self._settled or self.future.done():
                return
            # Settle before stopping the worker, or its death would count as a crash.
            self._settled = True
            if self._stop is not None:
                self._stop()
        if self.future.set_running_or_notify_cancel():
            self.future.set_exception(error)

    def runs_with(self, stop: Callable[[], None] | None) -> None:
        """Set how to stop the worker that runs this request; None when it no longer runs."""
        with self._lock:
            self._stop = stop

    def drop(self) -> None:
        """Notify the waiters of a cancelled request."""
        self._settle()

    def _settle(self) -> bool:
        with self._lock:
            if self._settled:
                return False
            self._settled = True
        return self.future.set_running_or_notify_cancel()


class RequestQueue:
    """A queue of at most ``size`` waiting requests, with deadlines.

    Parameters
    ----------
    size : int
        Jobs that wait; those that run are not counted.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._requests: deque[PoolRequest] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._deadlines: list[tuple[float, int, PoolRequest]] = []
        self._count = 0
        self._keeper: threading.Thread | None = None
        self._waiters: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = []

    def __len__(self) -> int:
        return len(self._requests)

    def put(self, request: PoolRequest, *, timeout_s: float | None) -> None:
        """Append a request; wait for room for at most ``timeout_s`` (None: without a limit).

        Raises
        ------
        MaterializeError
            When there is no room in that time, or the queue is closed.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        self._watch(request)
        with self._changed:
            while not self._append(request):
                left_s = None if deadline is None else deadline - time.monotonic()
                if left_s is not None and left_s <= 0:
                    error = MaterializeError(
                        f"the queue of {self._size} requests had no room within {timeout_s} s",
                        hint="submit later, or give the pool more workers or a larger queue_size",
                        code="pool-full",
                    )
                    request.fail(error)
                    raise error
                self._changed.wait(left_s)

    async def put_async(self, request: PoolRequest) -> None:
        """Append a request as :meth:`put` does; the event loop runs on while the queue is full."""
        loop = asyncio.get_running_loop()
        self._watch(request)
        while True:
            room: asyncio.Future[None] = loop.create_future()
            with self._changed:
                if self._append(request):
                    return
                self._waiters.append((loop, room))
            await room

    def _append(self, request: PoolRequest) -> bool:
        if self._closed:
            closed = MaterializeError("the pool is closed", code="pool-closed")
            request.fail(closed)
            raise closed
        if not request.is_over:
            if len(self._requests) >= self._size:
                return False
            self._requests.append(request)
            self._changed.notify_all()
        return True

    def _notify(self) -> None:
        # Wake the waiting threads and coroutines; the lock is held.
        self._changed.notify_all()
        waiters, self._waiters = self._waiters, []
        for loop, room in waiters:
            with contextlib.suppress(RuntimeError):  # the loop was closed
                loop.call_soon_threadsafe(_wake, room)

    def take(self) -> PoolRequest | None:
        """Return the next request, or None when the queue is closed and empty."""
        with self._changed:
            while not self._requests:
                if self._closed:
                    return None
                self._changed.wait()
            request = self._requests.popleft()
            self._notify()
            return request

    def close(self, *, cancel: bool) -> None:
        """Accept no more requests; with ``cancel`` those that wait are cancelled."""
        with self._changed:
            self._closed = True
            waiting = list(self._requests) if cancel else []
            self._notify()
        for request in waiting:
            request.future.cancel()

    def _forget(self, request: PoolRequest) -> None:
        # A settled request makes room at once.
        with self._changed:
            if request in self._requests:
                self._requests.remove(request)
            self._notify()
        if request.future.cancelled():
            request.drop()

    def _watch(self, request: PoolRequest) -> None:
        request.future.add_done_callback(lambda _: self._forget(request))
        if request.deadline is None:
            return
        with self._changed:
            self._count += 1
            heapq.heappush(self._deadlines, (request.deadline, self._count, request))
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
                request = heapq.heappop(self._deadlines)[2]
            request.expire()


def _wake(room: asyncio.Future[None]) -> None:
    if not room.done():
        room.set_result(None)
