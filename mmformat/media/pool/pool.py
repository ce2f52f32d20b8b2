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
from mmformat.media.fetch import Fetcher
from mmformat.media.pool.job import Job, Queue
from mmformat.media.pool.parcel import Decode, Encode
from mmformat.media.pool.recipe import recipe_of
from mmformat.media.pool.slots import ProcessSlot, Slot, ThreadSlot
from mmformat.model.arguments import check_callable, check_text, check_type
from mmformat.model.item import MultimodalInputs

__all__ = ["MaterializePool"]

MAX_COUNT: Final = 65_536
"""More workers, or requests that wait, than this are a slip."""


class MaterializePool:
    """Materialize requests off the caller's path, a bounded number at a time.

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
    encode, decode : callable, optional
        How inputs travel to a process and back: inputs to a message, and a buffer to inputs.

    Raises
    ------
    ModelError
        When a number is below 1, the kind is unknown, or a processor cannot be imported elsewhere.

    Notes
    -----
    **Copies**: threads: none but those of :func:`mmformat.materialize`. Processes: the encoded
    media on the way there and the message on the way back, once each, through a socket; nothing is
    pickled. **Lifetime**: close the pool, or use it in a ``with`` statement; a pool that is
    forgotten ends with the program.

    Examples
    --------
    >>> import numpy as np
    >>> from mmformat.model import MultimodalDataItem, Source
    >>> item = MultimodalDataItem(modality="IMAGE", feature=Source(np.ones((2, 2), np.uint8)))
    >>> with MaterializePool(2, processor=np.asarray) as pool:
    ...     pool.submit(MultimodalInputs(items=[item])).result().items[0].feature.sum()
    np.uint64(4)
    """

    def __init__(
        self,
        workers: int,
        kind: Literal["thread", "process"] = "thread",
        *,
        processor: Any = None,
        fetcher: Fetcher | None = None,
        queue_size: int | None = None,
        encode: Encode | None = None,
        decode: Decode | None = None,
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
        self._queue = Queue(size)
        self._slots: list[Slot]
        if kind == "thread":
            self._slots = [ThreadSlot(processor, fetcher) for _ in range(workers)]
        else:
            if encode is None or decode is None:
                raise ModelError(
                    "expected encode and decode for kind='process'", hint="mmformat.MaterializePool"
                )
            recipes = {
                "processor": recipe_of(_found(processor), path="$.processor"),
                "encode": recipe_of(encode, path="$.encode"),
                "decode": recipe_of(decode, path="$.decode"),
            }
            self._slots = [
                ProcessSlot(recipes, encode=encode, decode=decode, fetcher=fetcher)
                for _ in range(workers)
            ]
        self._threads = [
            threading.Thread(
                target=_work,
                args=(self._queue, slot),
                name=f"mmformat-materialize-{number}",
                daemon=True,
            )
            for number, slot in enumerate(self._slots)
        ]
        for thread in self._threads:
            thread.start()
        self._finalizer = weakref.finalize(self, Queue.close, self._queue, cancel=True)

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
        """How often a worker process had died and was replaced."""
        return sum(slot.restarts for slot in self._slots)

    def submit(
        self,
        inputs: MultimodalInputs,
        *,
        deadline_s: float | None = None,
        timeout_s: float | None = None,
    ) -> Future[MultimodalInputs]:
        """Queue a request and return its future.

        Parameters
        ----------
        inputs : MultimodalInputs
            Not changed; leave it alone until the future is done.
        deadline_s : float, optional
            Seconds from now until the future fails, waiting or running. A worker process that is at
            it then is killed and replaced; a thread goes on, and its result is discarded.
        timeout_s : float, optional
            Seconds to wait for room in the queue; as long as it takes when omitted.

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
        job = _job(inputs, deadline_s)
        _check_seconds(timeout_s, "timeout_s")
        self._queue.put(job, timeout_s=timeout_s)
        return job.future

    def map(
        self,
        requests: Iterable[MultimodalInputs],
        *,
        deadline_s: float | None = None,
        errors: Literal["raise", "return"] = "raise",
    ) -> Iterator[MultimodalInputs | MMFormatError]:
        """Yield the results of many requests in their order, taking no more ahead than fit.

        Parameters
        ----------
        requests : iterable of MultimodalInputs
            Read as results are taken.
        deadline_s : float, optional
            For each request, from when it is queued.
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
                window.append(self.submit(inputs, deadline_s=deadline_s))
                if len(window) >= self.queue_size + self.workers:
                    yield _result_of(window.popleft(), errors)
            while window:
                yield _result_of(window.popleft(), errors)
        finally:
            for future in window:
                future.cancel()

    async def materialize(
        self, inputs: MultimodalInputs, *, deadline_s: float | None = None
    ) -> MultimodalInputs:
        """Await one request; the event loop runs on, also while the queue is full.

        Raises
        ------
        MMFormatError
            As the future of :meth:`submit`.

        Notes
        -----
        Cancelling the await cancels the request.
        """
        job = _job(inputs, deadline_s)
        try:
            await asyncio.to_thread(self._queue.put, job, timeout_s=None)
            return await asyncio.wrap_future(job.future)
        except (asyncio.CancelledError, CancelledError):
            job.future.cancel()
            raise

    def close(self, *, cancel: bool = False) -> None:
        """Take no more requests, finish those that are there, and end the workers.

        Parameters
        ----------
        cancel : bool
            Cancel the requests that wait.
        """
        self._finalizer.detach()
        self._queue.close(cancel=cancel)
        for thread in self._threads:
            thread.join()


def _job(inputs: MultimodalInputs, deadline_s: float | None) -> Job:
    check_type(inputs, MultimodalInputs, "MultimodalInputs", name="inputs", error=MaterializeError)
    _check_seconds(deadline_s, "deadline_s")
    return Job(inputs, deadline_s)


def _check_seconds(value: Any, name: str) -> None:
    check_type(value, (int, float, type(None)), "seconds", name=name, error=MaterializeError)
    if value is not None and not value >= 0:
        raise MaterializeError(f"expected seconds of 0 or more, got {value!r}", path=f"$.{name}")


def _work(queue: Queue, slot: Slot) -> None:
    slot.prepare()
    try:
        while (job := queue.take()) is not None:
            if job.is_over:
                continue
            try:
                job.finish(slot.run(job))
            except MMFormatError as error:
                job.fail(error)
            except BaseException as error:  # a thread outlives its requests
                wrapped = MaterializeError(
                    f"expected a result, got {type(error).__name__}: {error}"
                )
                wrapped.__cause__ = error
                job.fail(wrapped)
            del job  # or the last request's media live until the next one comes
    finally:
        slot.close()


def _found(processor: Any) -> Any:
    from mmformat.media.pool.recipe import find

    return find(processor) if isinstance(processor, str) else processor


def _result_of(future: Future[MultimodalInputs], errors: str) -> MultimodalInputs | MMFormatError:
    try:
        return future.result()
    except MMFormatError as error:
        if errors == "raise":
            raise
        return error
