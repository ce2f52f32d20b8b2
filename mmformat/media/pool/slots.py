"""Where a request runs: in the thread that took it, or in a process that the thread looks after."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from typing import Any, Final, Protocol

from mmformat import errors
from mmformat.errors import MaterializeError, MMFormatError
from mmformat.media.fetch import Fetcher
from mmformat.media.materialize import (
    Wrapped,
    has_pending,
    load_values,
    materialize,
    materialize_item,
)
from mmformat.media.pool.channel import Channel, ChannelClosedError
from mmformat.media.pool.job import Job
from mmformat.media.pool.parcel import Decode, Encode, pack
from mmformat.model.item import MultimodalDataItem, MultimodalInputs

__all__ = ["ProcessSlot", "Slot", "ThreadSlot"]

MAX_ATTEMPTS: Final = 2
"""A request that was running when its worker died is tried once more."""

_CLOSE_TIMEOUT_S: Final = 5.0


class Slot(Protocol):
    """Run one request at a time."""

    restarts: int

    def prepare(self) -> None:
        """Get ready, so that the first request does not wait for it."""

    def run(self, job: Job) -> MultimodalInputs:
        """Return the materialized inputs."""

    def close(self) -> None:
        """Give back what the slot holds."""


class ThreadSlot:
    """Materialize in the calling thread; decoders and resizing let other threads run meanwhile."""

    def __init__(self, processor: Any, fetcher: Fetcher | None) -> None:
        self.restarts = 0
        self._processor = processor
        self._fetcher = fetcher

    def prepare(self) -> None:
        """Do nothing."""

    def run(self, job: Job) -> MultimodalInputs:
        """Return the materialized inputs."""
        return materialize(job.inputs, self._processor, fetcher=self._fetcher)

    def close(self) -> None:
        """Do nothing."""


class ProcessSlot:
    """Materialize in a worker process, which is replaced when it dies.

    Parameters
    ----------
    recipes : dict
        How the worker makes its processor, its encode and its decode.
    encode, decode : callable
        The same two on this side.
    fetcher : callable, optional
        Called on this side.
    """

    def __init__(
        self, recipes: dict[str, Any], *, encode: Encode, decode: Decode, fetcher: Fetcher | None
    ) -> None:
        self.restarts = 0
        self._recipes = recipes
        self._encode = encode
        self._decode = decode
        self._fetcher = fetcher
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: Channel | None = None

    @property
    def pid(self) -> int | None:
        """The worker's process number, or None when none runs."""
        return None if self._process is None else self._process.pid

    def prepare(self) -> None:
        """Start the worker; an error is kept for the first request, which will meet it again."""
        try:
            self._started()
        except (MMFormatError, ChannelClosedError):
            self._end()

    def run(self, job: Job) -> MultimodalInputs:
        """Return the materialized inputs; items without a source are done on this side.

        Raises
        ------
        MaterializeError
            When the worker dies twice, or cannot start.
        """
        done: dict[int, MultimodalDataItem] = {}
        waiting: list[tuple[int, MultimodalDataItem]] = []
        for number, item in enumerate(job.inputs.items):
            if has_pending(item.feature):
                waiting.append((number, item))
            else:
                path = f"$.items[{number}]"
                done[number] = materialize_item(item, None, fetcher=None, path=path)
        if waiting:
            made = self._sent(job, waiting)
            done.update(zip((number for number, _ in waiting), made, strict=True))
        return MultimodalInputs(
            items=[done[number] for number in range(len(job.inputs.items))],
            request_data=load_values(job.inputs.request_data, "$.request_data"),
        )

    def close(self) -> None:
        """Close the socket, at which the worker ends; kill it if it does not."""
        process = self._process
        if self._channel is not None:
            self._channel.close()
        if process is not None:
            try:
                process.wait(_CLOSE_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
        self._end()

    def _sent(
        self, job: Job, waiting: list[tuple[int, MultimodalDataItem]]
    ) -> list[MultimodalDataItem]:
        with Wrapped("$"):
            head, message = pack(waiting, encode=self._encode, fetcher=self._fetcher)
        status: int | None = None
        for _ in range(MAX_ATTEMPTS):
            if job.is_over:
                return [item for _, item in waiting]
            job.runs_with(self._kill)
            try:
                channel = self._started()
                if job.is_over:  # while it started: there was nothing to stop then
                    continue
                channel.send(head, message.frames)
                said, body = channel.receive()
            except ChannelClosedError:
                job.runs_with(None)
                status = self._end()
                self.restarts += 1
                continue
            finally:
                job.runs_with(None)
            if "error" in said:
                raise _error_of(said)
            items = self._decode(body).items
            for item in items:
                item.freeze()
            return items
        raise MaterializeError(
            f"expected a worker to live, got {MAX_ATTEMPTS} that died ({_said_of(status)})",
            path=f"$.items[{waiting[0][0]}]" if len(waiting) == 1 else "$.items",
            hint="a decoder crashed on this medium, or the machine is out of memory",
            code="worker-died",
        )

    def _started(self) -> Channel:
        if self._channel is not None:
            return self._channel
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "mmformat.media.pool.worker", str(theirs.fileno())],
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    env=_environment(),
                )
        except OSError as error:
            ours.close()
            raise MaterializeError(
                f"expected to start a worker, got {type(error).__name__}: {error}",
                code="worker-start",
            ) from error
        self._channel = channel = Channel(ours)
        channel.send(self._recipes)
        said, _ = channel.receive()
        if "error" in said:
            self._end()
            raise _error_of(said)
        return channel

    def _kill(self) -> None:
        # The exchange meets the end of the socket, and a new worker is started when it is needed.
        if self._process is not None:
            self._process.kill()

    def _end(self) -> int | None:
        process, channel = self._process, self._channel
        self._process = self._channel = None
        if channel is not None:
            channel.close()
        if process is None:
            return None
        try:
            return process.wait(_CLOSE_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()


def _environment() -> dict[str, str]:
    # The worker imports what this process can; two cores are better spent on two images.
    environment = dict(os.environ)
    environment["PYTHONPATH"] = os.pathsep.join(path or os.getcwd() for path in sys.path)  # noqa: PTH109
    environment.setdefault("OMP_NUM_THREADS", "1")
    return environment


def _error_of(said: dict[str, Any]) -> MMFormatError:
    kind = getattr(errors, said["error"], MaterializeError)
    error: MMFormatError = kind(
        said["reason"], path=said["path"], hint=said["hint"], code=said["code"]
    )
    return error


def _said_of(status: int | None) -> str:
    if status is not None and status < 0:
        return f"by signal {signal.Signals(-status).name}"
    return f"with status {status}"
