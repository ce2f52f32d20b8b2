"""The pool: a bounded queue of requests, and workers that materialize them."""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import CancelledError, Future
from typing import Any, Final, Literal

from mmformat.errors import MaterializeError, MMFormatError, ModelError
from mmformat.media.pool.process import ProcessWorker, ThreadWorker, Worker
from mmformat.media.pool.queue import PoolRequest, RequestQueue
from mmformat.media.pool.recipe import find, recipe_of
from mmformat.media.sources import Fetcher, reason_of
from mmformat.model.arguments import check_callable, check_text, check_type
from mmformat.model.item import MultimodalInputs

__all__ = ["MaterializePool"]

MAX_COUNT: Final = 65_536
"""The upper bound of both counts."""


class MaterializePool:
    """Materialize requests in the background, a bounded number at a time.

    Parameters
    ----------
    workers : int
        How many requests run at once.
    kind : {"thread", "process"}
        Threads share the caller's interpreter: decoding and resizing run at once, the rest takes
        turns. Processes share nothing, and survive a decoder that crashes.
    processor : callable or mapping
        As for :func:`mmformat.materialize`. For processes it must be something that they can
        import: a function at the top of a module, one of this library's processors, a
        ``functools.partial`` or mapping of these, or a text ``"module:name"``.
    fetcher : callable, optional
        Fetches URLs, in the caller's process, in a thread of the pool.
    queue_size : int, optional
        Requests that wait before :meth:`submit` blocks; twice the workers when omitted.

    Raises
    ------
    ModelError
        When a number is below 1, the kind is unknown, or a processor cannot be imported elsewhere.

    Notes
    -----
    A worker process that dies is replaced, and its request is tried once more.

    **Copies**: threads: none but those of :func:`mmformat.materialize`. Processes: the encoded
    media on the way there and the message on the way back, once each, through a socket; nothing is
    pickled. Dictionary tensors come back as they are, not expanded. **Lifetime**: close the pool,
    or use it in a ``with`` statement; an unused pool is closed when it is collected.

    Examples
    --------
    >>> import numpy as np
    >>> import mmformat as mm
    >>> item = mm.MultimodalDataItem(modality="IMAGE", feature=mm.Source(np.ones((2, 2), np.uint8)))
    >>> with mm.MaterializePool(2, processor=np.asarray) as pool:
    ...     future = pool.submit(mm.MultimodalInputs(items=[item]), timeout_s=10.0)
    ...     future.result().items[0].frozen
    True
    """

    def __init__(
        self,
        workers: int,
        kind: Literal["thread", "process"] = "thread",
        *,
        processor: Any = None,
        fetcher: Fetcher | None = None,
        queue_size: int | None = None,
    ) -> None:
        check_text(kind, ("thread", "process"), name="kind")
        check_callable(fetcher, name="fetcher")
        for name, value in (("workers", workers), ("queue_size", queue_size)):
            if value is None and name == "queue_size":
                continue
            if type(value) is not int or not 1 <= value <= MAX_COUNT:
                raise ModelError(
                    f"expected an int of 1 to {MAX_COUNT:,}, got {value!r:.60}", path=f"$.{name}"
                )
        size = 2 * workers if queue_size is None else queue_size
        self.workers = workers
        self.kind = kind
        self.queue_size = size
        self._queue = RequestQueue(size)
        self._workers: list[Worker]
        if kind == "thread":
            self._workers = [ThreadWorker(processor, fetcher) for _ in range(workers)]
        else:
            found = find(processor) if isinstance(processor, str) else processor
            recipe = recipe_of(found, path="$.processor")
            self._workers = [ProcessWorker(recipe, fetcher=fetcher) for _ in range(workers)]
        self._threads = [
            threading.Thread(
                target=_work,
                args=(self._queue, worker),
                name=f"mmformat-materialize-{number}",
                daemon=True,
            )
            for number, worker in enumerate(self._workers)
        ]
        for thread in self._threads:
            thread.start()
        self._finalizer = weakref.finalize(self, RequestQueue.close, self._queue, cancel=True)

    def __enter__(self) -> MaterializePool:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self.close(cancel=error is not None)

    def __repr__(self) -> str:
        return (
            f"MaterializePool({self.workers} workers of kind {self.kind}, "
            f"{len(self._queue)} of {self.queue_size} waiting)"
        )

    @property
    def restarts(self) -> int:
        """The number of worker processes that died and were replaced."""
        return sum(worker.restarts for worker in self._workers)

    def submit(
        self,
        inputs: MultimodalInputs,
        *,
        timeout_s: float | None = None,
        queue_timeout_s: float | None = None,
    ) -> Future[MultimodalInputs]:
        """Queue a request and return its future.

        Parameters
        ----------
        inputs : MultimodalInputs
            Not changed; leave it alone until the future is done.
        timeout_s : float, optional
            Seconds from now until the future fails, whether the request waits or runs; no limit
            when omitted. A worker process that runs it is killed and replaced; a thread finishes,
            and its result is discarded.
        queue_timeout_s : float, optional
            Seconds to wait for room in the queue: no limit when omitted; 0 does not wait.

        Returns
        -------
        concurrent.futures.Future
            Its error is what :func:`mmformat.materialize` raises, or a MaterializeError of code
            ``deadline`` or ``worker-died``. It can be cancelled until it is done: a request that
            waits is dropped, the result of one that runs is discarded.

        Raises
        ------
        MaterializeError
            With code ``pool-full`` when there was no room in time, ``pool-closed`` after
            :meth:`close`.
        """
        request = _request(inputs, timeout_s)
        _check_seconds(queue_timeout_s, "queue_timeout_s")
        self._queue.put(request, timeout_s=queue_timeout_s)
        return request.future

    def map(
        self,
        requests: Iterable[MultimodalInputs],
        *,
        timeout_s: float | None = None,
        errors: Literal["raise", "return"] = "raise",
    ) -> Iterator[MultimodalInputs | MMFormatError]:
        """Yield the results of many requests in order, with bounded read-ahead.

        Parameters
        ----------
        requests : iterable of MultimodalInputs
            Read as results are taken.
        timeout_s : float, optional
            For each request, counted from when it is queued.
        errors : {"raise", "return"}
            What to do with the error of one request; ``"return"`` yields it in its place.

        Raises
        ------
        MMFormatError
            That of the first request that failed, with ``errors="raise"``; those that wait are
            cancelled.
        """
        check_text(errors, ("raise", "return"), name="errors", error=MaterializeError)
        check_type(requests, Iterable, "requests", name="requests", error=MaterializeError)
        window: deque[Future[MultimodalInputs]] = deque()
        try:
            for inputs in requests:
                window.append(self.submit(inputs, timeout_s=timeout_s))
                if len(window) >= self.queue_size + self.workers:
                    yield _result_of(window.popleft(), errors)
            while window:
                yield _result_of(window.popleft(), errors)
        finally:
            for future in window:
                future.cancel()

    async def materialize_async(
        self, inputs: MultimodalInputs, *, timeout_s: float | None = None
    ) -> MultimodalInputs:
        """Await one request; the event loop is never blocked, even while the queue is full.

        Parameters
        ----------
        inputs, timeout_s
            As for :meth:`submit`.

        Raises
        ------
        MMFormatError
            As the future of :meth:`submit`.

        Notes
        -----
        Cancelling the await cancels the request.
        """
        request = _request(inputs, timeout_s)
        try:
            await self._queue.put_async(request)
            return await asyncio.wrap_future(request.future)
        except (asyncio.CancelledError, CancelledError):
            request.future.cancel()
            raise

    def close(self, *, cancel: bool = False) -> None:
        """Accept no more requests, finish the queued ones, and stop the workers.

        Parameters
        ----------
        cancel : bool
            Cancel the requests that wait.
        """
        self._finalizer.detach()
        self._queue.close(cancel=cancel)
        for thread in self._threads:
            thread.join()


def _request(inputs: MultimodalInputs, timeout_s: float | None) -> PoolRequest:
    check_type(inputs, MultimodalInputs, "MultimodalInputs", name="inputs", error=MaterializeError)
    _check_seconds(timeout_s, "timeout_s")
    return PoolRequest(inputs, timeout_s)


def _check_seconds(value: Any, name: str) -> None:
    check_type(value, (int, float, type(None)), "seconds", name=name, error=MaterializeError)
    if value is not None and not value >= 0:
        raise MaterializeError(f"expected seconds of 0 or more, got {value!r}", path=f"$.{name}")


def _work(queue: RequestQueue, worker: Worker) -> None:
    worker.prepare()
    try:
        while (request := queue.take()) is not None:
            if request.is_over:
                continue
            try:
                request.finish(worker.run(request))
            except MMFormatError as error:
                request.fail(error)
            except BaseException as error:  # a thread outlives its requests
                wrapped = MaterializeError(
                    f"processing raised {type(error).__name__}: {reason_of(error)}"
                )
                wrapped.__cause__ = error
                request.fail(wrapped)
            del request  # or the last request's media live until the next one comes
    finally:
        worker.close()


def _result_of(future: Future[MultimodalInputs], errors: str) -> MultimodalInputs | MMFormatError:
    try:
        return future.result()
    except MMFormatError as error:
        if errors == "raise":
            raise
        return error
