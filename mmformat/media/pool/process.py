"""A worker process: its channel, its loop, and requests packed as a message and JSON."""

from __future__ import annotations

import io
import os
import re
import signal
import sys
from dataclasses import replace
from typing import Any, Final, Protocol

import numpy as np

from mmformat import errors
from mmformat._processes import Channel, ChannelClosedError, Child
from mmformat.codec import decode, encode
from mmformat.errors import MaterializeError, MMFormatError
from mmformat.media.lazy import load_lazy
from mmformat.media.materialize import (
    MAX_LAZY_STEPS,
    ErrorPath,
    has_pending,
    load_values,
    materialize,
    materialize_item,
)
from mmformat.media.pool.queue import PoolRequest
from mmformat.media.pool.recipe import make
from mmformat.media.sources import Fetcher, load_image, read_source, reason_of
from mmformat.model.item import MultimodalDataItem, MultimodalInputs
from mmformat.model.message import EncodedMessage
from mmformat.model.source import Source
from mmformat.model.values import kind_of

__all__ = [
    "ProcessWorker",
    "ThreadWorker",
    "Worker",
    "encode_numbered",
    "error_head",
    "pack",
    "serve",
    "unpack",
]

_BOUNDS = ("max_nbytes", "max_pixels", "max_duration_s")


def pack(
    items: list[tuple[int, MultimodalDataItem]], *, fetcher: Fetcher | None
) -> tuple[dict[str, Any], EncodedMessage]:
    """Pack items into JSON and a message, in which every source is an array.

    Parameters
    ----------
    items : list of (int, MultimodalDataItem)
        Each with its number in the request, which errors name.
    fetcher : callable, optional
        URLs are fetched here, in the caller's process.

    Raises
    ------
    LimitError, MaterializeError, EncodeError
        When a source cannot be read, or is of a kind that only a thread can take.

    Notes
    -----
    **Copies**: none of bytes and arrays; a file object is read, and lazy objects are loaded. A path
    travels as a path.
    """
    sources: list[dict[str, Any]] = []
    packed = []
    for place, (number, item) in enumerate(items):
        path = f"$.items[{number}]"

        def take(value: Any, where: str, at: list[Any]) -> Any:
            for _ in range(MAX_LAZY_STEPS):
                kind = kind_of(value)
                if kind in ("list", "tuple"):
                    return [take(v, f"{where}[{i}]", [*at, i]) for i, v in enumerate(value)]
                if kind == "dict":
                    return {k: take(v, f"{where}.{k}", [*at, k]) for k, v in value.items()}
                if kind is not None:
                    return value
                if isinstance(value, Source):
                    array, said = _array_of(value, fetcher, where)
                    bounds = {name: getattr(value, name) for name in _BOUNDS}
                    sources.append({"at": at, **said, **bounds})
                    return array
                value = load_lazy(value, path=where)
            raise MaterializeError(f"no tensor after {MAX_LAZY_STEPS} lazy steps", path=where)

        packed.append(
            replace(
                item,
                feature=take(item.feature, f"{path}.feature", [place]),
                precomputed_embeddings=load_values(
                    item.precomputed_embeddings, f"{path}.precomputed_embeddings"
                ),
                model_specific_data=load_values(
                    item.model_specific_data, f"{path}.model_specific_data"
                ),
            )
        )
    numbers = [number for number, _ in items]
    return {"numbers": numbers, "sources": sources}, encode_numbered(packed, numbers)


def encode_numbered(items: list[MultimodalDataItem], numbers: list[int]) -> EncodedMessage:
    """Encode some items of a request; errors name an item by its number in the request."""
    try:
        return encode(MultimodalInputs(items=items))
    except MMFormatError as error:
        match = re.match(r"\$\.items\[(\d+)\]", error.path or "")
        if match is None:
            raise
        path = f"$.items[{numbers[int(match[1])]}]{str(error.path)[match.end() :]}"
        raise type(error)(error.reason, path=path, hint=error.hint, code=error.code) from error


def unpack(head: dict[str, Any], body: bytearray) -> list[tuple[int, MultimodalDataItem]]:
    """Unpack items, with their sources."""
    items = decode(body, expand=False).items
    for said in head["sources"]:
        place, *inside = said["at"]
        if not inside:
            items[place].feature = _source_of(said, items[place].feature)
            continue
        parent: Any = items[place].feature
        for index in inside[:-1]:
            parent = parent[index]
        parent[inside[-1]] = _source_of(said, parent[inside[-1]])
    return list(zip(head["numbers"], items, strict=True))


def _array_of(source: Source, fetcher: Fetcher | None, path: str) -> tuple[Any, dict[str, Any]]:
    if source.kind == "array":
        return np.asarray(source.data), {"kind": "array"}
    if source.kind == "path":
        return _bytes_array(os.fsencode(os.path.abspath(source.data))), {"kind": "path"}  # noqa: PTH100 - bytes paths too
    if source.kind == "image":
        return _bytes_array(_image_bytes(source, path)), {"kind": "bytes"}
    if source.kind == "medium":
        raise MaterializeError(
            f"a source of kind {source.kind!r} cannot be sent to another process",
            path=path,
            hint="use a pool of kind='thread'",
        )
    return _bytes_array(read_source(source, fetcher=fetcher, path=path)), {"kind": "bytes"}


def _bytes_array(data: bytes) -> Any:
    return np.frombuffer(data, np.uint8)


def _image_bytes(source: Source, path: str) -> bytes:
    image = load_image(source, path=path)
    file = io.BytesIO()
    try:
        # TIFF keeps every mode, and uncompressed it costs little more than a copy.
        if "transparency" in image.info or image.mode in ("P", "PA"):
            image.save(file, "PNG", compress_level=1)
        else:
            image.save(file, "TIFF")
    except Exception as error:
        raise MaterializeError(
            f"an image of mode {image.mode} cannot be sent to another process: {reason_of(error)}",
            path=path,
            hint="use a pool of kind='thread'",
        ) from error
    return file.getvalue()


def _source_of(said: dict[str, Any], array: Any) -> Source:
    data: Any = array
    if said["kind"] != "array":
        data = np.asarray(array).tobytes()
    if said["kind"] == "path":
        data = os.fsdecode(data)
    return Source(data, kind=said["kind"], **{name: said[name] for name in _BOUNDS})


MAX_ATTEMPTS: Final = 2
"""A request that was running when its worker died is tried once more."""

_CLOSE_TIMEOUT_S: Final = 5.0
_START: Final = "from mmformat.media.pool.process import main; main()"


class Worker(Protocol):
    """Run one request at a time."""

    restarts: int

    def prepare(self) -> None:
        """Prepare for the first request."""

    def run(self, request: PoolRequest) -> MultimodalInputs:
        """Return the materialized inputs."""

    def close(self) -> None:
        """Release the resources of the worker."""


class ThreadWorker:
    """Materialize in the calling thread; decoding and resizing release the GIL."""

    def __init__(self, processor: Any, fetcher: Fetcher | None) -> None:
        self.restarts = 0
        self._processor = processor
        self._fetcher = fetcher

    def prepare(self) -> None:
        """Do nothing."""

    def run(self, request: PoolRequest) -> MultimodalInputs:
        """Return the materialized inputs."""
        return materialize(request.inputs, self._processor, fetcher=self._fetcher)

    def close(self) -> None:
        """Do nothing."""


class ProcessWorker:
    """Materialize in a worker process, which is replaced when it dies.

    Parameters
    ----------
    recipe : object
        How the worker makes its processor, as :func:`recipe_of` returns it.
    fetcher : callable, optional
        Called in this process.
    """

    def __init__(self, recipe: Any, *, fetcher: Fetcher | None) -> None:
        self.restarts = 0
        self._recipe = recipe
        self._fetcher = fetcher
        self._child: Child | None = None

    @property
    def pid(self) -> int | None:
        """The process id, or None when no process runs."""
        return None if self._child is None else self._child.process.pid

    def prepare(self) -> None:
        """Start the process; if that fails, the first request will fail the same way."""
        try:
            self._started()
        except (MMFormatError, ChannelClosedError):
            self._end()

    def run(self, request: PoolRequest) -> MultimodalInputs:
        """Return the materialized inputs; items without a source stay in this process.

        Raises
        ------
        MaterializeError
            When the worker dies twice, or cannot start.
        """
        done: dict[int, MultimodalDataItem] = {}
        waiting: list[tuple[int, MultimodalDataItem]] = []
        for number, item in enumerate(request.inputs.items):
            if has_pending(item.feature):
                waiting.append((number, item))
            else:
                path = f"$.items[{number}]"
                done[number] = materialize_item(item, None, fetcher=None, path=path)
        if waiting:
            made = self._sent(request, waiting)
            done.update(zip((number for number, _ in waiting), made, strict=True))
        return MultimodalInputs(
            items=[done[number] for number in range(len(request.inputs.items))],
            request_data=load_values(request.inputs.request_data, "$.request_data"),
        )

    def close(self) -> None:
        """Close the socket, which ends the worker; kill it after a timeout."""
        self._end()

    def _sent(
        self, request: PoolRequest, waiting: list[tuple[int, MultimodalDataItem]]
    ) -> list[MultimodalDataItem]:
        with ErrorPath("$"):
            head, message = pack(waiting, fetcher=self._fetcher)
        status: int | None = None
        for _ in range(MAX_ATTEMPTS):
            if request.is_over:
                return [item for _, item in waiting]
            request.runs_with(self._kill)
            try:
                channel = self._started()
                if request.is_over:  # while it started: there was nothing to stop then
                    continue
                channel.send(head, message.frames)
                said, body = channel.receive()
            except ChannelClosedError:
                request.runs_with(None)
                status = self._end()
                self.restarts += 1
                continue
            finally:
                request.runs_with(None)
            if "error" in said:
                raise _error_of(said)
            items = decode(body, expand=False).items
            for item in items:
                item.freeze()
            return items
        raise MaterializeError(
            f"{MAX_ATTEMPTS} workers in a row died ({_said_of(status)})",
            path=f"$.items[{waiting[0][0]}]" if len(waiting) == 1 else "$.items",
            hint="a decoder crashed on this medium, or the machine is out of memory",
            code="worker-died",
        )

    def _started(self) -> Channel:
        if self._child is not None:
            return self._child.channel
        try:
            self._child = Child(["-c", _START, "{channel}"], env=_environment())
        except OSError as error:
            raise MaterializeError(
                f"cannot start a worker: {type(error).__name__}: {reason_of(error)}",
                code="worker-start",
            ) from error
        channel = self._child.channel
        channel.send({"processor": self._recipe})
        said, _ = channel.receive()
        if "error" in said:
            self._end()
            raise _error_of(said)
        return channel

    def _kill(self) -> None:
        # The exchange then reads the end of the socket; the next request starts a new process.
        child = self._child
        if child is not None:
            child.process.kill()

    def _end(self) -> int | None:
        child, self._child = self._child, None
        return None if child is None else child.end(_CLOSE_TIMEOUT_S)


def _environment() -> dict[str, str]:
    # The worker can import what this process can; one thread a worker suits a full pool best.
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


def serve(channel: Channel) -> None:
    """Answer requests until the channel closes; the first frame holds the recipe.

    Notes
    -----
    A request that fails is answered with its error. Nothing is kept between requests.
    """
    try:
        recipe, _ = channel.receive()
        try:
            processor = make(recipe["processor"])
        except Exception as error:
            channel.send(error_head(error))
            return
        channel.send({"ready": os.getpid()})
        while True:
            head, body = channel.receive()
            try:
                items = [
                    materialize_item(item, processor, fetcher=None, path=f"$.items[{number}]")
                    for number, item in unpack(head, body)
                ]
                message = encode_numbered(items, head["numbers"])
            except Exception as error:
                channel.send(error_head(error))
                continue
            channel.send({"done": True}, message.frames)
            del head, body, items, message
    except ChannelClosedError:
        return


def error_head(error: Exception) -> dict[str, Any]:
    """Return an error as JSON; a foreign exception becomes a MaterializeError."""
    if not isinstance(error, MMFormatError):
        error = MaterializeError(f"processing raised {type(error).__name__}: {reason_of(error)}")
    return {
        "error": type(error).__name__,
        "reason": error.reason,
        "path": error.path,
        "hint": error.hint,
        "code": error.code,
    }


def main() -> None:
    """Serve the socket whose descriptor is the first command-line argument."""
    # The pool handles Ctrl-C and closes the socket; what a processor prints goes to stderr.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.dup2(2, 1)
    serve(Channel.of(int(sys.argv[1])))
