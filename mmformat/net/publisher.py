"""The producer's host: announce slots of the arena, and send their bytes to mirrors."""

from __future__ import annotations

import contextlib
import logging
import math
import threading
import time
import weakref
from collections import Counter, OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
from blake3 import blake3

from mmformat.arena import Arena
from mmformat.arena.arguments import check_count, check_timeout
from mmformat.errors import ArenaFullError, MMFormatError, TransportError
from mmformat.model.item import MultimodalInputs
from mmformat.model.message import EncodedMessage
from mmformat.net.leases import LeaseTable, Publication
from mmformat.net.metrics import watch
from mmformat.net.remote_handle import CHUNK_NBYTES, RemoteHandle, Ticket, check_location
from mmformat.net.tls import TLS, check_exposed, check_token, server_middleware, split
from mmformat.net.wire import (
    ACK,
    ECHO,
    FIND,
    HOLD,
    MAX_ECHO_NBYTES,
    SCHEMA,
    STATS,
    batch_of,
    flight,
    to_flight,
    unpack_probe,
)
from mmformat.shm import Handle

__all__ = ["Publisher", "PublisherStats"]

_LOG: Final = logging.getLogger("mmformat.net")
_RESUME_S: Final = 5.0
"""How long the slot of a broken stream waits for the mirror to come back."""
_TICK_S: Final = 0.25
_KNOWN_DIGESTS: Final = 4096
_SHUTDOWN_S: Final = 5.0
_FOR_EVER: Final = 2**62


@dataclass(frozen=True, slots=True, kw_only=True)
class PublisherStats:
    """Count what a publisher holds and did.

    Parameters
    ----------
    published, published_nbytes, leases, streams : int
        Messages announced and not yet ended, their bytes, open leases, and streams being sent.
    sent_nbytes, acknowledged, expired, expired_leases, broken_streams, refused, evicted : int
        Bytes of messages given to Flight; acknowledgements; messages whose time was over; leases
        without a sign of life; streams that ended early; requests that found it busy; kept
        messages given up for room.
    """

    published: int
    published_nbytes: int
    leases: int
    streams: int
    sent_nbytes: int
    acknowledged: int
    expired: int
    expired_leases: int
    broken_streams: int
    refused: int
    evicted: int


class Publisher:
    """Serve an arena's messages to other hosts over Arrow Flight.

    Parameters
    ----------
    arena : Arena
        The arena of this process.
    address : str
        Where to listen, ``host:port``; port 0 chooses one.
    advertise : str, optional
        The host that remote handles name, when it is not the one of ``address``.
    tls : TLS, optional
        Certificate and key; with ``ca`` only mirrors with a certificate are served.
    token : str, optional
        What mirrors must show.
    insecure : bool, default False
        Listen beyond this host without TLS or without any proof of who asks.
    ttl_s : float
        How long an announced message waits to be fetched.
    lease_s : float
        How long a mirror may be silent while it fetches.
    max_streams : int
        Streams served at once; a request beyond waits at its mirror.
    registry : prometheus_client.CollectorRegistry, optional
        Where to register metrics.

    Raises
    ------
    TransportError
        With code ``net-insecure`` when strangers could fetch, ``net-address`` when the address
        cannot be used, ``net-token`` or ``net-tls``.
    MissingExtraError
        When pyarrow has no Flight.

    Notes
    -----
    **Copies**: none; gRPC is given the slot's own pages. **Lifetime**: a slot's bytes stay until
    the hosts acknowledged them or their leases expired, and the last network buffer is gone.

    Examples
    --------
    >>> import numpy as np
    >>> import mmformat as mm
    >>> from mmformat.net import Mirror, Publisher
    >>> item = mm.MultimodalDataItem(modality="IMAGE", feature=np.ones((2, 3), np.float32))
    >>> with mm.Arena.create(nbytes=2**20, ranks=1) as here, Publisher(here) as publisher:
    ...     remote = publisher.publish(mm.MultimodalInputs(items=[item]))
    ...     with mm.Arena.create(nbytes=2**20, ranks=1) as there, Mirror(there) as mirror:
    ...         handle = mirror.fetch(remote)
    ...         with mm.Arena.attach(handle, rank=0) as reader:
    ...             reader.get(handle).items[0].feature.sum()
    np.float32(6.0)
    """

    def __init__(
        self,
        arena: Arena,
        address: str = "127.0.0.1:0",
        *,
        advertise: str | None = None,
        tls: TLS | None = None,
        token: str | None = None,
        insecure: bool = False,
        ttl_s: float = 60.0,
        lease_s: float = 15.0,
        max_streams: int = 64,
        registry: object | None = None,
    ) -> None:
        if not isinstance(arena, Arena):
            raise TransportError(
                f"expected an Arena, got {type(arena).__name__}",
                path="$.arena",
                code="net-argument",
            )
        host, port = split(address)
        check_exposed(host, tls=tls, token=check_token(token), insecure=insecure)
        check_timeout(ttl_s, "ttl_s")
        check_timeout(lease_s, "lease_s")
        check_count(max_streams, "max_streams")
        self._arena = arena
        self._ttl_s = ttl_s
        self._leases = LeaseTable(lease_s=lease_s)
        self._digests: OrderedDict[bytes, bytes] = OrderedDict()
        self._kept: OrderedDict[bytes, RemoteHandle] = OrderedDict()
        self._mutex = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._max_streams = max_streams
        self._closing = threading.Event()
        scheme = "grpc" if tls is None else "grpc+tls"
        self._server = _serve(self, f"{scheme}://{_bracketed(host)}:{port}", tls, token)
        self.location = check_location(
            f"{scheme}://{_bracketed(advertise or host)}:{self._server.port}"
        )
        self._reaper = threading.Thread(
            target=_reap, args=(weakref.ref(self), self._closing), name="mmformat-net", daemon=True
        )
        self._reaper.start()
        watch(registry, "publisher", self.location, self)

    @property
    def port(self) -> int:
        """Where it listens."""
        port: int = self._server.port
        return port

    def announce(
        self,
        handle: Handle | bytes,
        *,
        hosts: int = 1,
        ttl_s: float | None = None,
        keep: bool = True,
    ) -> RemoteHandle:
        """Publish a slot, and return what to send to the other hosts.

        Parameters
        ----------
        handle : Handle or bytes
            As :meth:`mmformat.Arena.put` returned it.
        hosts : int
            How many mirrors will fetch it; their acknowledgements end the publication.
        ttl_s : float, optional
            How long it waits to be fetched; the publisher's own when omitted.
        keep : bool, default True
            Whether ranks of this host read the slot too. With False the local handle is revoked:
            send it to nobody.

        Raises
        ------
        StaleHandleError
            When the slot has other content by now.
        TransportError
            With code ``net-composed`` for a handle made with ``reuse="items"``, ``net-full``,
            ``closed``.

        Notes
        -----
        **Copies**: none. **Cost**: BLAKE3 of the bytes, once for a content that has an identity.
        """
        local = handle if isinstance(handle, Handle) else Handle.from_bytes(handle)
        check_count(hosts, "hosts")
        if hosts < 1:
            raise TransportError(f"hosts must be 1 or more, got {hosts}", code="net-argument")
        check_timeout(self._ttl_s if ttl_s is None else ttl_s, "ttl_s")
        if local.composed:
            raise TransportError(
                "a request whose items lie in slots of their own cannot be announced as one",
                hint="put with reuse='request'",
                code="net-composed",
            )
        if self._closing.is_set():
            raise TransportError("the publisher is closed", code="closed")
        lent = self._arena.transport.lend(local)
        digest = self._digest(lent.view, lent.identity)
        remote = RemoteHandle(
            location=self.location,
            arena=local.name,
            segment_id=local.segment_id,
            slot=local.slot,
            generation=local.generation,
            nbytes=lent.view.nbytes,
            digest=digest,
        )
        self._leases.add(
            Publication(
                key=remote.key,
                view=lent.view,
                digest=digest,
                hosts=hosts,
                until_s=time.monotonic() + (self._ttl_s if ttl_s is None else ttl_s),
            )
        )
        if not keep:
            self._arena.revoke(local)
        return remote

    def publish(
        self,
        inputs: MultimodalInputs | EncodedMessage,
        *,
        hosts: int = 1,
        ttl_s: float | None = None,
        timeout_s: float = 0.0,
        compression: str | None = None,
    ) -> RemoteHandle:
        """Put inputs into the arena for other hosts alone, and announce them.

        Parameters
        ----------
        inputs, timeout_s, compression
            As for :meth:`mmformat.Arena.put`.
        hosts, ttl_s
            As for :meth:`announce`.

        Raises
        ------
        ArenaFullError, EncodeError
            As :meth:`mmformat.Arena.put`.
        TransportError
            As :meth:`announce`.
        """
        handle = self._arena.put(inputs, timeout_s=timeout_s, compression=compression)
        try:
            return self.announce(handle, hosts=hosts, ttl_s=ttl_s, keep=False)
        except BaseException:
            self._arena.revoke(handle)
            raise

    def keep(
        self, key: bytes, inputs: MultimodalInputs | EncodedMessage, *, timeout_s: float = 0.0
    ) -> RemoteHandle:
        """Publish inputs under a key until their room is needed, and return the handle.

        Any number of hosts find them by the key, as often as they like: :meth:`Mirror.find`. When
        the arena is full, what was asked for least recently goes.

        Parameters
        ----------
        key : bytes
            32 bytes, as a digest of what the content is known by elsewhere.
        inputs, timeout_s
            As for :meth:`publish`.

        Raises
        ------
        ArenaFullError
            When there is no room even without anything kept, in time.
        EncodeError, TransportError
            As :meth:`publish`.
        """
        _check_key(key)
        deadline_s = time.monotonic() + timeout_s
        while True:
            with self._mutex:
                known = self._kept.get(key)
            if known is not None:
                return known
            try:
                made = self.publish(inputs, hosts=_FOR_EVER, ttl_s=math.inf)
            except ArenaFullError as error:
                if error.code == "arena-too-small":
                    raise
                with self._mutex:
                    oldest = self._kept.popitem(last=False)[1] if self._kept else None
                    self._counts["evicted"] += oldest is not None
                if oldest is not None:
                    self.withdraw(oldest)
                elif time.monotonic() >= deadline_s:
                    raise
                else:
                    time.sleep(0.001)
                continue
            with self._mutex:
                self._kept[key] = made
            return made

    def find(self, key: bytes) -> RemoteHandle | None:
        """Return what is kept under a key, which is then the most recently asked for.

        Raises
        ------
        TransportError
            With code ``net-argument`` when it is no key.
        """
        _check_key(key)
        with self._mutex:
            found = self._kept.get(key)
            if found is not None:
                self._kept.move_to_end(key)
            return found

    def withdraw(self, remote: RemoteHandle | bytes) -> bool:
        """End a publication: later fetches find it stale. Return whether there was one."""
        return self._leases.withdraw(RemoteHandle.of(remote).key)

    def wait_acknowledged(self, *, timeout_s: float) -> bool:
        """Wait until no publication is left, and say whether that came to be in time."""
        check_timeout(timeout_s)
        deadline_s = time.monotonic() + timeout_s
        while len(self._leases):
            if time.monotonic() >= deadline_s:
                return False
            time.sleep(0.002)
        return True

    def stats(self) -> PublisherStats:
        """Return the counts of this moment."""
        counts, leases = self._counts, self._leases
        return PublisherStats(
            published=len(leases),
            published_nbytes=leases.nbytes,
            leases=leases.leases,
            streams=counts["streams"],
            sent_nbytes=counts["sent_nbytes"],
            acknowledged=leases.acknowledged,
            expired=leases.expired,
            expired_leases=leases.expired_leases,
            broken_streams=counts["broken_streams"],
            refused=counts["refused"],
            evicted=counts["evicted"],
        )

    def close(self) -> None:
        """Stop listening and end every publication; a second call does nothing."""
        if self._closing.is_set():
            return
        self._closing.set()
        self._leases.clear()
        # Flight waits for streams, also for one whose mirror has stopped reading.
        ending = threading.Thread(target=self._server.shutdown, daemon=True)
        ending.start()
        ending.join(_SHUTDOWN_S)
        if ending.is_alive():
            _LOG.warning("%s: a stream is stuck; its slot stays until the peer goes", self.location)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Publisher({self.location}, {len(self._leases)} messages)"

    def _digest(self, view: np.ndarray[Any, np.dtype[np.uint8]], identity: bytes) -> bytes:
        known = self._digests.get(identity) if identity else None
        if known is None:
            known = blake3(view.data, max_threads=blake3.AUTO).digest()
            if identity:
                self._digests[identity] = known
                while len(self._digests) > _KNOWN_DIGESTS:
                    self._digests.popitem(last=False)
        return known

    def _stream(self, ticket: Ticket) -> Iterator[Any]:
        with self._mutex:
            if self._counts["streams"] >= self._max_streams:
                self._counts["refused"] += 1
                raise to_flight(TransportError("too many streams", code="net-busy"))
            self._counts["streams"] += 1
        at = ticket.first * CHUNK_NBYTES
        nbytes = at + 1
        try:
            while at < nbytes:
                found = self._leases.lease(ticket.key, ticket.mirror)
                nbytes = found.view.nbytes
                chunk = found.view[at : at + CHUNK_NBYTES]
                if self._closing.is_set() or not chunk.size:
                    raise TransportError(
                        "no such chunk, or the publisher closes", code="net-ticket"
                    )
                self._counts["sent_nbytes"] += chunk.size
                yield batch_of(chunk)
                at += ticket.streams * CHUNK_NBYTES
        except MMFormatError as error:
            raise to_flight(error) from error
        finally:
            with self._mutex:
                self._counts["streams"] -= 1
                if at < nbytes:
                    self._counts["broken_streams"] += 1
            if at < nbytes:
                self._leases.shorten(ticket.key, ticket.mirror, to_s=_RESUME_S)

    def _get(self, ticket: bytes) -> Iterator[Any]:
        probe = unpack_probe(ticket)
        if probe is not None:
            return _noise(probe)
        asked = Ticket.from_bytes(ticket)
        self._leases.lease(asked.key, asked.mirror)
        return self._stream(asked)

    def _act(self, kind: str, body: memoryview) -> bytes:
        if kind == ECHO and len(body) <= MAX_ECHO_NBYTES:
            return bytes(body)
        if kind == STATS:
            stats = self.stats()
            return f"{stats.published} {stats.leases} {stats.sent_nbytes}".encode()
        if kind == FIND:
            found = self.find(bytes(body[:33]))
            return b"" if found is None else bytes(found)
        if kind not in (ACK, HOLD):
            raise TransportError("there is no such action", code="net-ticket")
        asked = Ticket.from_bytes(body)
        if kind == ACK:
            self._leases.acknowledge(asked.key, asked.mirror)
        else:
            self._leases.lease(asked.key, asked.mirror)
        return b""


def _check_key(key: object) -> None:
    if not isinstance(key, bytes) or len(key) != 32:
        raise TransportError("a key must be 32 bytes", code="net-argument")


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _noise(nbytes: int) -> Iterator[Any]:
    block = np.random.default_rng().integers(0, 256, CHUNK_NBYTES, dtype=np.uint8)
    for at in range(0, nbytes, CHUNK_NBYTES):
        yield batch_of(block[: min(CHUNK_NBYTES, nbytes - at)])


def _reap(publisher: weakref.ref[Publisher], closing: threading.Event) -> None:
    while not closing.wait(_TICK_S):
        found = publisher()
        if found is None:
            return
        found._leases.expire()
        del found


def _serve(publisher: Publisher, location: str, tls: TLS | None, token: str | None) -> Any:
    """Start the Flight server; it keeps no publisher alive that nobody else holds."""
    api = flight()
    owner = weakref.ref(publisher)

    def found() -> Publisher:
        there = owner()
        if there is None:
            raise to_flight(TransportError("the publisher is closed", code="closed"))
        return there

    class Server(api.FlightServerBase):  # type: ignore[misc, name-defined]
        def do_get(self, context: object, ticket: Any) -> Any:
            try:
                return api.GeneratorStream(SCHEMA, found()._get(ticket.ticket))
            except MMFormatError as error:
                raise to_flight(error) from error

        def do_action(self, context: object, action: Any) -> Any:
            try:
                yield api.Result(found()._act(action.type, memoryview(action.body)))
            except MMFormatError as error:
                raise to_flight(error) from error

    options = {} if tls is None else tls.server_options()
    try:
        return Server(location, middleware=server_middleware(token), **options)
    except Exception as error:  # Arrow's errors and OSError, with Arrow's own text
        with contextlib.suppress(Exception):
            _LOG.debug("no server at %s", location, exc_info=True)
        raise TransportError(f"cannot listen on {location}: {error}", code="net-address") from error
