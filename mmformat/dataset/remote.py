"""A folder of messages on another host: served over Flight, read through a local cache."""

from __future__ import annotations

import fcntl
import json
import mmap
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
from blake3 import blake3

from mmformat.codec.decode import Library
from mmformat.dataset.dataset import Dataset, open_dataset
from mmformat.dataset.index import SUFFIX, Entry
from mmformat.errors import LimitError, MMFormatError, ModelError, TransportError
from mmformat.model.arguments import check_path
from mmformat.model.limits import Limits
from mmformat.net.remote_handle import CHUNK_NBYTES, MAX_STREAMS, RemoteHandle, check_location
from mmformat.net.tls import (
    TLS,
    check_exposed,
    check_token,
    is_loopback,
    server_middleware,
    split,
)
from mmformat.net.transfer import Connections, Transfer
from mmformat.net.wire import SCHEMA, batch_of, flight, to_flight

__all__ = ["DatasetServer", "RemoteDataset", "open_remote"]

DEFAULT_CAPACITY_NBYTES: Final = 10 * 2**30
_SCHEMES: Final = {"mmf+flight://": "grpc://", "mmf+flight+tls://": "grpc+tls://"}
_LIST, _DIGEST = "mmformat.dataset.list", "mmformat.dataset.digest"
_PAGE_NBYTES: Final = 2**20
_LIST_NBYTES: Final = 2**30
_ENTRIES: Final = 10**7
_MAGIC: Final = b"mmfd"


class DatasetServer:
    """Serve a folder of messages to other hosts; read only.

    Parameters
    ----------
    folder : path
        As for :func:`mmformat.open_dataset`.
    address : str
        Where to listen, ``host:port``.
    tls, token, insecure
        As for :class:`mmformat.net.Publisher`.

    Raises
    ------
    TransportError
        When the folder cannot be read, or as :class:`mmformat.net.Publisher`.

    Notes
    -----
    **Copies**: none; gRPC is given the file's own pages.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        address: str = "127.0.0.1:0",
        *,
        tls: TLS | None = None,
        token: str | None = None,
        insecure: bool = False,
    ) -> None:
        host, port = split(address)
        check_exposed(host, tls=tls, token=check_token(token), insecure=insecure)
        self._dataset = open_dataset(folder)
        self._mutex = threading.Lock()
        self._digests: dict[tuple[str, int, int], bytes] = {}
        scheme = "grpc" if tls is None else "grpc+tls"
        bracketed = f"[{host}]" if ":" in host else host
        self._server = _serve(self, f"{scheme}://{bracketed}:{port}", tls, token)
        kind = "mmf+flight" if tls is None else "mmf+flight+tls"
        self.url = f"{kind}://{bracketed}:{self._server.port}"

    def close(self) -> None:
        """Stop serving."""
        ending = threading.Thread(target=self._server.shutdown, daemon=True)
        ending.start()
        ending.join(5.0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _entry(self, name: str) -> Entry:
        number = self._dataset._numbers.get(name)
        if number is None:
            raise TransportError("the folder has no such message", code="net-ticket")
        return self._dataset._entries[number]

    def _list(self) -> Iterator[bytes]:
        with self._mutex:
            self._dataset.refresh()
            entries = list(self._dataset._entries)
        page = bytearray()
        for entry in entries:
            page += json.dumps([entry.name, entry.nbytes, entry.identities]).encode() + b"\n"
            if len(page) > _PAGE_NBYTES:
                yield bytes(page)
                page.clear()
        yield bytes(page)

    def _digest(self, name: str) -> bytes:
        entry = self._entry(name)
        key = (entry.name, entry.nbytes, entry.mtime_ns)
        found = self._digests.get(key)
        if found is None:
            try:
                hasher = blake3().update_mmap(self._dataset.folder / entry.name)
            except OSError as error:
                raise TransportError("the message cannot be read", code="net-ticket") from error
            found = self._digests[key] = hasher.digest()
        return found

    def _chunks(self, streams: int, first: int, name: str) -> Iterator[Any]:
        entry = self._entry(name)
        try:
            with (self._dataset.folder / entry.name).open("rb") as file:
                pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise TransportError("the message cannot be read", code="net-ticket") from error
        view = np.frombuffer(pages, np.uint8)
        return (
            batch_of(view[at : at + CHUNK_NBYTES])
            for at in range(first * CHUNK_NBYTES, view.size, streams * CHUNK_NBYTES)
        )


def _serve(server: DatasetServer, location: str, tls: TLS | None, token: str | None) -> Any:
    api = flight()

    class Server(api.FlightServerBase):  # type: ignore[misc, name-defined]
        def do_get(self, context: object, ticket: Any) -> Any:
            try:
                streams, first, name = _unpack(ticket.ticket)
                return api.GeneratorStream(SCHEMA, server._chunks(streams, first, name))
            except MMFormatError as error:
                raise to_flight(error) from error

        def do_action(self, context: object, action: Any) -> Any:
            try:
                if action.type == _LIST:
                    for page in server._list():
                        yield api.Result(page)
                elif action.type == _DIGEST:
                    name = action.body.to_pybytes()[:4097].decode("utf-8", "replace")
                    yield api.Result(server._digest(name))
                else:
                    raise TransportError("there is no such action", code="net-ticket")
            except MMFormatError as error:
                raise to_flight(error) from error

    options = {} if tls is None else tls.server_options()
    try:
        return Server(location, middleware=server_middleware(token), **options)
    except Exception as error:
        raise TransportError(f"cannot listen on {location}: {error}", code="net-address") from error


def _pack(streams: int, first: int, name: str) -> bytes:
    return _MAGIC + bytes([streams]) + first.to_bytes(8, "little") + name.encode()


def _unpack(ticket: bytes) -> tuple[int, int, str]:
    if not ticket.startswith(_MAGIC) or not 14 <= len(ticket) <= 13 + 4096:
        raise TransportError("the ticket is of no message", code="net-ticket")
    streams, first = ticket[4], int.from_bytes(ticket[5:13], "little")
    if not 1 <= streams <= MAX_STREAMS or first >= 2**40:
        raise TransportError("the ticket is of no message", code="net-ticket")
    return streams, first, ticket[13:].decode("utf-8", "replace")


def open_remote(
    url: str,
    *,
    cache: str | os.PathLike[str] | None = None,
    capacity_nbytes: int = DEFAULT_CAPACITY_NBYTES,
    tls: TLS | None = None,
    token: str | None = None,
    insecure: bool = False,
    limits: Limits | None = None,
    library: Library | None = None,
    expand: bool = True,
    timeout_s: float = 60.0,
) -> RemoteDataset:
    """Open a folder of messages that another host serves.

    Parameters
    ----------
    url : str
        ``mmf+flight://host:port``, or ``mmf+flight+tls://host:port``.
    cache : path, optional
        Where messages are kept once they were read; ``~/.cache/mmformat/dataset`` when omitted.
        Any number of processes and datasets share one.
    capacity_nbytes : int
        Bytes of the cache; the least recently read messages go first.
    tls, token, insecure
        As for :class:`mmformat.net.Mirror`.
    limits, library, expand
        As for :func:`mmformat.open_dataset`.
    timeout_s : float
        How long the list, and each message, may take.

    Raises
    ------
    TransportError
        When the server cannot be reached, or refuses; with code ``net-insecure`` as a mirror.
    ModelError
        When it is no such URL.
    """
    scheme = next((each for each in _SCHEMES if str(url).startswith(each)), None)
    if scheme is None:
        raise ModelError(f"a URL must begin with {' or '.join(_SCHEMES)}, got {url!r:.80}")
    location = check_location(_SCHEMES[scheme] + url[len(scheme) :].rstrip("/"))
    host, _ = split(location.partition("://")[2])
    if location.startswith("grpc://") and not insecure and not is_loopback(host):
        raise TransportError(f"{host} offers no TLS", code="net-insecure", hint="mmf+flight+tls://")
    place = Path.home() / ".cache/mmformat/dataset" if cache is None else cache
    path = check_path(place, name="cache", error=TransportError)
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise TransportError(f"cannot make {path}: {error}") from error
    bounds = Limits.of(limits)
    made = RemoteDataset(path, bounds, library, expand, timeout_s)
    made._connect(location, capacity_nbytes, Connections(tls=tls, token=check_token(token)))
    made.refresh()
    return made


class RemoteDataset(Dataset):
    """Hold what another host's folder contains; :func:`open_remote` makes it.

    As :class:`mmformat.Dataset`, except that nothing can be added. A message is fetched when it
    is first asked for, compared with its digest, and mapped from the cache from then on.
    """

    __slots__ = ("_capacity_nbytes", "_connections", "_location")

    def _connect(self, location: str, capacity_nbytes: int, connections: Connections) -> None:
        self._location = location
        self._capacity_nbytes = capacity_nbytes
        self._connections = connections

    def __repr__(self) -> str:
        return f"RemoteDataset({self._location!r}, {len(self):,} messages)"

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("a remote dataset is opened in each process: it has connections")

    def add(self, inputs: Any, *, compression: Any = None) -> str:
        """Refuse: another host's folder is read only.

        Raises
        ------
        ModelError
            Always.
        """
        raise ModelError(
            "a remote dataset is read only", hint="add on the host that has the folder"
        )

    def refresh(self) -> None:
        """Ask what the folder has now.

        Raises
        ------
        TransportError
            When the server cannot be reached, refuses, or answers with something else.
        LimitError
            When the list is beyond any folder.
        """
        fresh: list[Entry] = []
        for line in self._lines():
            try:
                name, nbytes, identities = json.loads(line)
                entry = Entry(str(name), int(nbytes), 0, tuple(identities))
                is_sound = 0 < entry.nbytes < 2**62 and all(
                    each is None or isinstance(each, str) for each in entry.identities
                )
            except (ValueError, TypeError, RecursionError):
                is_sound = False
            if not is_sound or len(fresh) >= _ENTRIES:
                raise TransportError("the list has a line that is none", code="net-protocol")
            fresh.append(entry)
        self._entries, self._numbers, self._places, self._bad = [], {}, {}, {}
        for entry in fresh:
            self._take(entry)

    def verify(self) -> Any:
        """Fetch and read every byte, and yield what is wrong, as :meth:`Dataset.verify`."""
        from mmformat.codec.verify import verify
        from mmformat.dataset.dataset import DatasetFinding

        for entry in list(self._entries):
            for each in verify(self._fetched(entry), limits=self._limits):
                text = f"{each.message} - at {each.path}"
                yield DatasetFinding(entry.name, each.code, text)

    def to_table(self) -> Any:
        """Refuse: a table of a folder needs the folder.

        Raises
        ------
        ModelError
            Always.
        """
        raise ModelError("a remote dataset makes no table", hint="to_table() on its own host")

    def _decoded(self, entry: Entry) -> Any:
        for attempt in range(8):
            local = self._fetched(entry)
            here = Entry(local.relative_to(self.folder).as_posix(), *entry[1:])
            try:
                return super()._decoded(here)
            except MMFormatError:
                if local.exists() or attempt == 7:
                    raise  # else another process evicted it just now
        return None

    def _lines(self) -> Iterator[bytes]:
        pages, nbytes = [], 0
        for page in self._act(_LIST, b""):
            nbytes += len(page)
            if nbytes > _LIST_NBYTES:
                raise LimitError("the list of messages is beyond any folder", code="net-protocol")
            pages.append(page)
        return (line for page in pages for line in page.splitlines())

    def _act(self, kind: str, body: bytes) -> list[bytes]:
        from mmformat.net.wire import from_flight

        client = self._connections.take(self._location)
        options = self._connections.options(self._timeout_s)
        try:
            found = client.do_action(flight().Action(kind, body), options=options)
            answer = [each.body.to_pybytes() for each in found]
        except Exception as error:
            self._connections.drop(client)
            raise from_flight(error, self._location) from error
        self._connections.give(self._location, client)
        return answer

    def _fetched(self, entry: Entry) -> Path:
        """Return the message's file in the cache, fetched if it is not there."""
        named = Path(entry.name).name.removesuffix(SUFFIX)
        digest = bytes.fromhex(named) if _is_digest(named) else b""
        if not digest:
            digest = b"".join(self._act(_DIGEST, entry.name.encode()))
        if len(digest) != 32:
            raise TransportError("the digest has another length", code="net-protocol")
        path = self.folder / digest.hex()[:2] / f"{digest.hex()}{SUFFIX}"
        try:
            os.utime(path)  # the time of the last reading, for eviction
            return path
        except FileNotFoundError:
            pass
        self._limits.check("message_nbytes", entry.nbytes)
        if entry.nbytes > self._capacity_nbytes:
            raise LimitError(
                f"the cache holds {self._capacity_nbytes:,} bytes, the message {entry.nbytes:,}",
                hint="raise capacity_nbytes=",
            )
        self._fetch(entry, digest, path)
        return path

    def _fetch(self, entry: Entry, digest: bytes, path: Path) -> None:
        temporary = None
        try:
            path.parent.mkdir(mode=0o700, exist_ok=True)
            with _locked(self.folder):
                self._make_room(entry.nbytes)
                descriptor, temporary = tempfile.mkstemp(prefix=".partial-", dir=self.folder)
                with os.fdopen(descriptor, "r+b") as file:
                    os.posix_fallocate(file.fileno(), 0, entry.nbytes)
                    pages = mmap.mmap(file.fileno(), entry.nbytes)
            remote = RemoteHandle(
                location=self._location,
                arena="mmf-dataset",
                segment_id=bytes(16),
                slot=0,
                generation=1,
                nbytes=entry.nbytes,
                digest=digest,
            )
            transfer = Transfer(
                remote,
                np.frombuffer(pages, np.uint8),
                connections=self._connections,
                mirror=bytes(16),
                deadline_s=time.monotonic() + self._timeout_s,
                ticket=lambda streams, first: _pack(streams, first, entry.name),
            )
            transfer.run()
            Path(temporary).replace(path)
            temporary = None
        except OSError as error:
            if isinstance(error, MMFormatError):
                raise
            raise TransportError(f"cannot write to {self.folder}: {error}") from error
        finally:
            if temporary is not None:
                with suppress(OSError):
                    Path(temporary).unlink()

    def _make_room(self, nbytes: int) -> None:
        """Delete what was read least recently; who has it mapped keeps it."""
        found = []
        for each in self.folder.glob(f"[0-9a-f][0-9a-f]/*{SUFFIX}"):
            with suppress(OSError):
                status = each.stat()
                found.append((status.st_mtime_ns, status.st_size, each))
        for each in self.folder.glob(".partial-*"):
            with suppress(OSError):
                status = each.stat()
                if time.time() - status.st_mtime > 3600:  # a dead process's
                    each.unlink()
                else:
                    nbytes += status.st_size
        total = sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if total + nbytes <= self._capacity_nbytes:
                return
            with suppress(OSError):
                path.unlink()
            total -= size


def _is_digest(name: str) -> bool:
    return len(name) == 64 and all(each in "0123456789abcdef" for each in name)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
