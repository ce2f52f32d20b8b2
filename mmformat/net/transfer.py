"""One message across the network: streams into a slot, hashed on the way, resumed after breaks."""

from __future__ import annotations

import itertools
import logging
import random
import threading
import time
from collections.abc import Callable
from typing import Any, Final

import numpy as np
from blake3 import blake3

from mmformat.errors import IntegrityError, MMFormatError, TransportError, TransportTimeoutError
from mmformat.net.remote_handle import CHUNK_NBYTES, RemoteHandle, Ticket
from mmformat.net.tls import TLS
from mmformat.net.wire import bytes_of, flight, from_flight

__all__ = ["Connections", "Transfer"]

_LOG: Final = logging.getLogger("mmformat.net")
_RETRIED: Final = frozenset({"net-unreachable", "net-busy", "timeout"})
_FIRST_WAIT_S: Final = 0.02
_LONGEST_WAIT_S: Final = 1.0
_UNIQUE: Final = itertools.count()


class Connections:
    """Hold one connection for each stream to a publisher, and make new ones after a failure.

    Parameters
    ----------
    tls : TLS, optional
        How to prove who we are, and whom we trust.
    token : str, optional
        What publishers want to see; it goes over TLS or loopback only.
    """

    def __init__(self, *, tls: TLS | None, token: str | None) -> None:
        self._tls = tls
        self._token = token
        self._mutex = threading.Lock()
        self._idle: dict[str, list[Any]] = {}

    def take(self, location: str) -> Any:
        """Return a connection that nobody else uses.

        Raises
        ------
        TransportError
            With code ``net-unreachable``.
        """
        with self._mutex:
            idle = self._idle.get(location)
            if idle:
                return idle.pop()
        options = self._tls.client_options() if self._tls and "+tls" in location else {}
        limits = [
            ("grpc.max_receive_message_length", CHUNK_NBYTES + 2**16),
            ("grpc.max_metadata_size", 2**14),
            # gRPC shares a connection between channels of equal options, a broken one too.
            ("mmformat.connection", next(_UNIQUE)),
        ]
        try:
            return flight().FlightClient(location, generic_options=limits, **options)
        except Exception as error:
            raise from_flight(error, location) from error

    def give(self, location: str, client: Any) -> None:
        """Take back a connection that works."""
        with self._mutex:
            idle = self._idle.setdefault(location, [])
            if len(idle) < 4 and len(self._idle) <= 256:
                idle.append(client)
                return
        self.drop(client)

    def drop(self, client: Any) -> None:
        """Close a connection that may be broken."""
        try:
            client.close()
        except Exception:
            _LOG.debug("closing a connection failed", exc_info=True)

    def options(self, timeout_s: float) -> Any:
        """Return the options of a call that ends in so many seconds, on both sides."""
        headers = [(b"authorization", f"Bearer {self._token}".encode())] if self._token else []
        return flight().FlightCallOptions(timeout=max(timeout_s, 0.001), headers=headers)

    def act(self, location: str, kind: str, body: bytes, *, timeout_s: float) -> bytes:
        """Call an action of a publisher, and return what it answers.

        Raises
        ------
        TransportError
            As :func:`mmformat.net.wire.from_flight`.
        """
        client = self.take(location)
        try:
            found = list(
                client.do_action(flight().Action(kind, body), options=self.options(timeout_s))
            )
        except Exception as error:
            self.drop(client)
            raise from_flight(error, location) from error
        self.give(location, client)
        return found[0].body.to_pybytes() if found else b""

    def close(self) -> None:
        """Close what is idle."""
        with self._mutex:
            idle = [client for each in self._idle.values() for client in each]
            self._idle.clear()
        for client in idle:
            self.drop(client)


class Transfer:
    """Fetch one message into memory of exactly its size.

    Parameters
    ----------
    remote : RemoteHandle
        What to fetch.
    target : uint8 array
        The reserved slot.
    connections : Connections
        Where connections come from.
    mirror : bytes
        Who we are: the lease is ours.
    deadline_s : float
        When to give up, by the monotonic clock.
    streams : int
        How many at once; each carries every so-manieth chunk.
    stream_s : float
        After how long a stream is given up and resumed: a peer that vanished says nothing.
    progress : callable, optional
        Called with the bytes received and the bytes of the message.
    closing : threading.Event, optional
        Ends the transfer with code ``closed``.
    ticket : callable, optional
        Makes the ticket of a stream from the number of streams and its first chunk; of a slot
        when omitted.

    Notes
    -----
    **Copies**: each byte once, from gRPC's buffer into the slot. The digest is computed on the
    way, while the bytes are in the processor's cache.
    """

    def __init__(
        self,
        remote: RemoteHandle,
        target: np.ndarray[Any, np.dtype[np.uint8]],
        *,
        connections: Connections,
        mirror: bytes,
        deadline_s: float,
        streams: int = 1,
        stream_s: float = 10.0,
        progress: Callable[[int, int], object] | None = None,
        closing: threading.Event | None = None,
        ticket: Callable[[int, int], bytes] | None = None,
    ) -> None:
        self._ticket = ticket or self._slot_ticket
        self._closing = closing or threading.Event()
        self._remote = remote
        self.target = target
        self._connections = connections
        self._mirror = mirror
        self._deadline_s = deadline_s
        self._streams = max(1, min(streams, -(-remote.nbytes // CHUNK_NBYTES)))
        self._stream_s = stream_s
        self._progress = progress
        self._hasher = blake3()
        self._hashed = 0
        self._arrived: set[int] = set()
        self._mutex = threading.Lock()
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self.received = 0
        self.resumed = 0

    def run(self) -> None:
        """Fetch every byte, and compare the digest.

        Raises
        ------
        TransportTimeoutError
            When the deadline passed.
        StaleHandleError
            When the publisher no longer has the message.
        IntegrityError
            With code ``net-digest`` when other bytes came.
        TransportError
            With code ``net-refused`` or ``net-protocol``.
        """
        threads = [
            threading.Thread(target=self._run_stream, args=(first,), daemon=True)
            for first in range(1, self._streams)
        ]
        for thread in threads:
            thread.start()
        self._run_stream(0)
        for thread in threads:
            thread.join()
        if self._error is not None:
            raise self._error
        if self._hasher.digest() != self._remote.digest:
            raise IntegrityError(
                f"{self._remote.location} sent other bytes than the handle's digest names",
                code="net-digest",
            )

    def _run_stream(self, first: int) -> None:
        chunk, wait_s = first, _FIRST_WAIT_S
        try:
            while not self._stop.is_set() and chunk * CHUNK_NBYTES < self._remote.nbytes:
                before = chunk
                try:
                    for _ in self._chunks(chunk):
                        chunk += self._streams
                        if self._stop.is_set():
                            return
                        self._check_open()
                    if chunk == before:
                        raise TransportError("the stream was empty", code="net-protocol")
                except TransportError as error:
                    if error.code not in _RETRIED:
                        raise
                    wait_s = _FIRST_WAIT_S if chunk > before else min(2 * wait_s, _LONGEST_WAIT_S)
                    self._wait(wait_s, error)
        except BaseException as error:
            self._error = self._error or error
            self._stop.set()

    def _check_open(self) -> None:
        if self._closing.is_set():
            raise TransportError("the mirror is closed", code="closed")

    def _wait(self, wait_s: float, error: TransportError) -> None:
        left_s = self._deadline_s - time.monotonic()
        if left_s <= 0:
            raise TransportTimeoutError(
                f"{self._remote.location} sent {self.received:,} of {self._remote.nbytes:,} bytes "
                f"in time: {error.reason}"
            ) from error
        self.resumed += 1
        _LOG.info("fetch from %s goes on after: %s", self._remote.location, error.reason)
        self._closing.wait(min(left_s, wait_s * (0.5 + random.random() / 2)))  # noqa: S311
        self._check_open()

    def _chunks(self, chunk: int) -> Any:
        """Read one stream, from a chunk on, until it ends or breaks; yield after each chunk."""
        remote, api = self._remote, flight()
        timeout_s = min(self._stream_s, self._deadline_s - time.monotonic())
        if timeout_s <= 0:
            raise TransportTimeoutError("the deadline passed")
        client = self._connections.take(remote.location)
        reader = None
        try:
            options = self._connections.options(timeout_s)
            ticket = self._ticket(self._streams, chunk)
            reader = client.do_get(api.Ticket(ticket), options=options)
            for start in range(chunk * CHUNK_NBYTES, remote.nbytes, self._streams * CHUNK_NBYTES):
                nbytes = min(CHUNK_NBYTES, remote.nbytes - start)
                self._store(start, bytes_of(reader.read_chunk().data, nbytes))
                yield start
            if _has_more(reader):
                raise TransportError("the stream goes on after the message", code="net-protocol")
            self._connections.give(remote.location, client)
            client = None
        except MMFormatError:
            raise
        except StopIteration as error:
            raise TransportError("the stream ended early", code="net-protocol") from error
        except Exception as error:
            raise from_flight(error, remote.location) from error
        finally:
            if client is not None:
                if reader is not None:
                    _cancel(reader)
                self._connections.drop(client)

    def _slot_ticket(self, streams: int, first: int) -> bytes:
        remote = self._remote
        return bytes(
            Ticket(
                segment_id=remote.segment_id,
                slot=remote.slot,
                generation=remote.generation,
                mirror=self._mirror,
                streams=streams,
                first=first,
            )
        )

    def _store(self, start: int, chunk: np.ndarray[Any, np.dtype[np.uint8]]) -> None:
        self.target[start : start + chunk.size] = chunk
        with self._mutex:
            self.received += chunk.size
            if start == self._hashed:
                self._hasher.update(chunk.data)
                self._hashed += chunk.size
            else:
                self._arrived.add(start)
            while self._hashed in self._arrived:
                self._arrived.remove(self._hashed)
                # Out of the slot: the chunk's own buffer is gone by now.
                late = self.target[self._hashed : self._hashed + CHUNK_NBYTES]
                self._hasher.update(late.data)
                self._hashed += late.size
        if self._progress is not None:
            self._progress(self.received, self._remote.nbytes)


def _has_more(reader: Any) -> bool:
    try:
        reader.read_chunk()
    except StopIteration:
        return False
    return True


def _cancel(reader: Any) -> None:
    try:
        reader.cancel()
    except Exception:
        _LOG.debug("cancelling a stream failed", exc_info=True)
