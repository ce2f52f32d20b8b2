"""Who converts many sources: threads, or worker processes where the files are many."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict
from multiprocessing.connection import wait as wait_readable
from types import TracebackType
from typing import Final, Self

from mmformat._processes import Channel, ChannelClosedError, Child, import_paths
from mmformat.errors import TransportError
from mmformat.legacy.batch.job import FileResult, Job
from mmformat.legacy.storage import TensorMaker

__all__ = ["PROCESSES_FROM", "run_jobs", "work"]

PROCESSES_FROM: Final = 512
"""From so many sources on, processes: the interpreter's lock is most of a small file's cost."""

_AHEAD: Final = 4
_PR_SET_PDEATHSIG: Final = 1
_MOST_TRIES: Final = 2
_BOOT: Final = (
    "import json,sys; sys.path[:]=json.loads(sys.argv[3]); "
    "from mmformat.legacy.batch.workers import work; work(int(sys.argv[1]), int(sys.argv[2]))"
)
Take = Callable[[int, FileResult], None]


def run_jobs(jobs: Mapping[int, Job], take: Take, *, workers: int) -> None:
    """Run all jobs, and hand each result with its number to ``take``, in this thread."""
    if workers > 1 and len(jobs) >= PROCESSES_FROM:
        with _Crew(workers) as crew:
            crew.run(jobs, take)
    else:
        _threads(jobs, take, workers=workers)


def _threads(jobs: Mapping[int, Job], take: Take, *, workers: int) -> None:
    TensorMaker().prepare()
    with ThreadPoolExecutor(workers, "mmformat-convert") as threads:
        running: dict[Future[FileResult], int] = {}
        try:
            for index, job in jobs.items():
                running[threads.submit(job.run)] = index
                # Not all at once: a Future and its result for each of a million files is memory.
                while len(running) >= workers * _AHEAD:
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        take(running.pop(future), future.result())
            for future in list(running):
                take(running[future], future.result())
        except BaseException:
            threads.shutdown(wait=False, cancel_futures=True)
            raise


class _Worker(Child):
    """One process, and what it was given and has not answered, in order."""

    def __init__(self) -> None:
        super().__init__(["-c", _BOOT, "{channel}", str(os.getpid()), import_paths()])
        self.given: deque[int] = deque()

    def give(self, index: int, job: Job) -> None:
        self.given.append(index)
        with contextlib.suppress(ChannelClosedError):  # it is dead, and its answer will say so
            self.channel.send(job.as_dict())

    def answer(self) -> FileResult | None:
        """Return its next result, or None when it will give none any more."""
        try:
            return FileResult(**self.channel.receive()[0])
        except ChannelClosedError:
            return None


class _Crew:
    """Worker processes; one that dies takes no file with it but the one that it worked at."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._workers: list[_Worker] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        while self._workers:
            self._workers.pop().end()

    def run(self, jobs: Mapping[int, Job], take: Take) -> None:
        """Run all jobs; a file whose worker died is tried once more, with no other beside it."""
        left: deque[int] = deque(jobs)
        alone: deque[int] = deque()
        tried: set[int] = set()
        self._workers = [_Worker() for _ in range(min(self._count, len(jobs)))]
        while True:
            for ahead in range(_AHEAD):  # in turns: nobody is given four while another has none
                for worker in self._workers:
                    if left and len(worker.given) <= ahead:
                        worker.give(left[0], jobs[left.popleft()])
            busy = [worker for worker in self._workers if worker.given]
            if not busy:
                if not alone:
                    return
                self._workers[0].give(alone[0], jobs[alone.popleft()])
                busy = self._workers[:1]
            ready = wait_readable([worker.channel.fileno() for worker in busy])
            for worker in [worker for worker in busy if worker.channel.fileno() in ready]:
                result = worker.answer()
                if result is not None:
                    take(worker.given.popleft(), result)
                    continue
                status = self._replace(worker)
                lost = worker.given.popleft()
                left.extendleft(reversed(worker.given))
                if lost not in tried:
                    tried.add(lost)
                    alone.append(lost)
                else:
                    error = TransportError(
                        f"expected a worker process to answer, got its end with status {status}",
                        hint="not enough memory? convert the file alone, with workers=1",
                        code="worker",
                    )
                    take(lost, jobs[lost].failed(error))

    def _replace(self, worker: _Worker) -> int | None:
        status = worker.end()
        self._workers[self._workers.index(worker)] = _Worker()
        return status


def work(descriptor: int, parent: int) -> None:
    """Serve jobs on a socket until the other end closes it, or the parent dies."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the kernel was told
        os._exit(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent has it too, and ends this process
    channel = Channel.of(descriptor)
    TensorMaker().prepare()
    while True:
        try:
            values, _ = channel.receive()
            channel.send(asdict(Job.of(values).run()))
        except ChannelClosedError:
            return
