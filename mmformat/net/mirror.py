"""A consuming host: fetch each message once, into the arena that all its ranks read."""

from __future__ import annotations

import asyncio
import logging
import os
import queue
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
from blake3 import blake3

from mmformat.arena import Arena
from mmformat.arena.arguments import check_count, check_timeout
from mmformat.codec import decode
from mmformat.errors import (
    ArenaFullError,
    LimitError,
    MMFormatError,
    TransportError,
    TransportTimeoutError,
)
from mmformat.model.limits import Limits
from mmformat.net.metrics import watch
from mmformat.net.remote_handle import RemoteHandle, Ticket, check_location
from mmformat.net.tls import TLS, check_token, is_loopback, split
from mmformat.net.transfer import Connections, Transfer
from mmformat.net.wire import ACK, FIND, HOLD
from mmformat.shm import Handle, Slot

__all__ = ["Mirror", "MirrorStats"]

_LOG: Final = logging.getLogger("mmformat.net")
STREAMS_FROM_NBYTES: Final = 64 * 2**20
"""From here on a transfer has several streams."""
_HOLD_INTERVAL_S: Final = 3.0
_CALL_S: Final = 2.0
_WORKERS: Final = 64
_NOTHING: Final = np.empty(0, np.uint8)
_CONTENT: Final = "mmformat 2026-11 net: content by the BLAKE3 digest of its message"


@dataclass(frozen=True, slots=True, kw_only=True)
class MirrorStats:
    """Count what a mirror did.

    Parameters
    ----------
    transfers, in_flight_nbytes : int
        Transfers that run now, and their bytes.
    fetched, fetched_nbytes : int
        Messages that crossed the network, and their bytes.
    present, joined : int
        Requests answered from the arena, and requests that waited for another's transfer.
    resumed, failed : int
        Streams that were opened again, and requests that ended in an error.
    """

    transfers: int
    in_flight_nbytes: int
    fetched: int
    fetched_nbytes: int
    present: int
    joined: int
    resumed: int
    failed: int


@dataclass(slots=True, eq=False)
class _Round:
    """Hold one granted handle, which each rank that asks is told of once."""

    handle: Handle
    until_s: float
    told: set[int] = field(default_factory=set)


class _Budget:
    """Admit transfers in the order in which they came, while their bytes fit."""

    def __init__(self, *, nbytes: int, transfers: int) -> None:
        self.nbytes = nbytes
        self._transfers = transfers
        self._changed = threading.Condition()
        self._waiting: deque[object] = deque()
        self.used_nbytes = 0
        self.running = 0

    @contextmanager
    def take(self, nbytes: int, deadline_s: float) -> Iterator[None]:
        me = object()
        with self._changed:
            self._waiting.append(me)
            try:
                while (
                    self._waiting[0] is not me
                    or self.running >= self._transfers
                    or (self.running and self.used_nbytes + nbytes > self.nbytes)
                ):
                    left_s = deadline_s - time.monotonic()
                    if left_s <= 0:
                        raise TransportTimeoutError(
                            f"{self.running} other transfers of {self.used_nbytes:,} bytes did "
                            "not end in time",
                            hint="raise budget_nbytes= or transfers=, or ask for less at once",
                        )
                    self._changed.wait(left_s)
                self.used_nbytes += nbytes
                self.running += 1
            finally:
                self._waiting.remove(me)
                self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self.used_nbytes -= nbytes
                self.running -= 1
                self._changed.notify_all()


class Mirror:
    """Bring messages of other hosts into this host's arena: one transfer whatever asks.

    Parameters
    ----------
    arena : Arena
        The arena of this process, whose ranks read what is fetched.
    tls : TLS, optional
        ``ca`` to trust; certificate and key for publishers that want one.
    token : str, optional
        What the publishers want to see.
    allow : collection of str, optional
        The publishers to fetch from, as ``host`` or ``host:port``; without it every one that TLS
        vouches for, and those of this host.
    insecure : bool, default False
        Fetch from other hosts without TLS.
    limits : Limits, optional
        Bounds on a message; checked before any memory is taken.
    transfers : int
        How many run at once; others wait.
    budget_nbytes : int, optional
        Bytes in flight at once; the arena's size when omitted.
    streams : int, optional
        Streams of a transfer of 64 MiB or more: 2, but 1 with TLS on fewer than 4 cores.
    round_s : float
        How long a handle waits for the ranks that have not asked for it, with ``rank=``.
    stream_s : float
        After how long without an end a stream is opened anew.
    registry : prometheus_client.CollectorRegistry, optional
        Where to register metrics.

    Raises
    ------
    TransportError
        With code ``net-argument`` or ``net-token``.

    Notes
    -----
    **Copies**: each byte once, from gRPC into the slot. **Memory**: the arena, and a few chunks
    for each stream. A message that is in the arena already does not cross again.
    """

    def __init__(
        self,
        arena: Arena,
        *,
        tls: TLS | None = None,
        token: str | None = None,
        allow: Collection[str] | None = None,
        insecure: bool = False,
        limits: Limits | None = None,
        transfers: int = 4,
        budget_nbytes: int | None = None,
        streams: int | None = None,
        round_s: float = 60.0,
        stream_s: float = 10.0,
        registry: object | None = None,
    ) -> None:
        if not isinstance(arena, Arena):
            raise TransportError(
                f"expected an Arena, got {type(arena).__name__}",
                path="$.arena",
                code="net-argument",
            )
        if streams is None:
            streams = 1 if tls is not None and (os.cpu_count() or 1) < 4 else 2
        for name, value in (("transfers", transfers), ("streams", streams)):
            check_count(value, name)
        check_timeout(round_s, "round_s")
        check_timeout(stream_s, "stream_s")
        self._transport = arena.transport
        self._arena = arena
        self._tls = tls
        self._insecure = insecure
        self._allow = None if allow is None else frozenset(allow)
        self._limits = Limits.of(limits)
        self._streams = streams
        self._round_s = round_s
        self._stream_s = stream_s
        self._connections = Connections(tls=tls, token=check_token(token))
        self._budget = _Budget(
            nbytes=self._transport.nbytes if budget_nbytes is None else budget_nbytes,
            transfers=max(1, transfers),
        )
        self.id = os.urandom(16)
        self._mutex = threading.Lock()
        self._running: dict[bytes, Future[None]] = {}
        self._rounds: dict[bytes, deque[_Round]] = {}
        self._held: Counter[RemoteHandle] = Counter()
        self._counts: Counter[str] = Counter()
        self._acks: queue.SimpleQueue[RemoteHandle | None] = queue.SimpleQueue()
        self._closing = threading.Event()
        self._pool: ThreadPoolExecutor | None = None
        self._threads = [
            threading.Thread(target=run, name="mmformat-net", daemon=True)
            for run in (self._acknowledge, self._keep_alive)
        ]
        for thread in self._threads:
            thread.start()
        watch(registry, "mirror", self._transport.name, self)

    def fetch(
        self,
        remote: RemoteHandle | bytes,
        *,
        rank: int | None = None,
        timeout_s: float = 30.0,
        progress: Callable[[int, int], object] | None = None,
    ) -> Handle:
        """Return a handle of the local arena for a message of another host.

        Parameters
        ----------
        remote : RemoteHandle or bytes
            What the publisher announced.
        rank : int, optional
            The rank that asks, where every rank asks for itself: each is told of the same handle
            once. Without it, the handle is for all ranks, as from :meth:`mmformat.Arena.put`.
        timeout_s : float
            How long all of it may take: waiting for other transfers, for room, for the network.
        progress : callable, optional
            Called with the bytes received and the bytes of the message.

        Raises
        ------
        TransportTimeoutError
            When that time is over.
        ArenaFullError
            When the local arena has no room in time, or never will.
        StaleHandleError
            When the publisher no longer has it.
        IntegrityError
            With code ``net-digest`` when other bytes came than the handle names.
        DecodeError, LimitError
            When the bytes are no message, or one beyond the limits; nothing is granted.
        TransportError
            With code ``net-refused``, ``net-protocol``, ``net-insecure``, ``net-handle``,
            ``closed``.

        Notes
        -----
        **Copies**: each byte once; none of content that is here. Threads may call it at once.
        """
        check_timeout(timeout_s)
        wanted = RemoteHandle.of(remote)
        if rank is not None and not 0 <= rank < self._transport.ranks:
            raise TransportError(
                f"rank must be 0 to {self._transport.ranks - 1}, got {rank}", code="reader"
            )
        return self._fetch(wanted, rank, time.monotonic() + timeout_s, progress)

    def find(self, location: str, key: bytes, *, timeout_s: float = 5.0) -> RemoteHandle | None:
        """Ask a publisher what it keeps under a key; see :meth:`Publisher.keep`.

        Parameters
        ----------
        location : str
            The publisher's: ``grpc+tls://host:port``.
        key : bytes
            32 bytes.
        timeout_s : float
            How long it may take to answer.

        Raises
        ------
        TransportError
            With code ``net-unreachable``, ``net-refused``, ``net-protocol`` or ``net-insecure``.
        """
        self._check_allowed(check_location(location))
        answer = self._connections.act(location, FIND, key, timeout_s=timeout_s)
        if not answer:
            return None
        found = RemoteHandle.from_bytes(answer)
        # It may call itself otherwise; what we asked is what we reached.
        return replace(found, location=location)

    async def fetch_async(
        self,
        remote: RemoteHandle | bytes,
        *,
        rank: int | None = None,
        timeout_s: float = 30.0,
        progress: Callable[[int, int], object] | None = None,
    ) -> Handle:
        """Fetch without holding up the event loop; see :meth:`fetch`.

        Raises
        ------
        TransportError, DecodeError, LimitError
            As :meth:`fetch`.

        Notes
        -----
        ``progress`` is called in another thread. When the task is cancelled, what arrives later
        is not granted to anybody.
        """
        check_timeout(timeout_s)
        wanted = RemoteHandle.of(remote)
        with self._mutex:
            self._check_open()
            if self._pool is None:
                self._pool = ThreadPoolExecutor(_WORKERS, thread_name_prefix="mmformat-net")
            made = self._pool.submit(
                self._fetch, wanted, rank, time.monotonic() + timeout_s, progress
            )
        try:
            return await asyncio.wrap_future(made)
        except asyncio.CancelledError:
            if not made.cancel() and rank is None:
                made.add_done_callback(self._give_back)
            raise

    def expire(self) -> int:
        """Stop waiting for ranks that did not ask for a handle in time; return how many handles."""
        now_s, over = time.monotonic(), []
        with self._mutex:
            for digest, rounds in list(self._rounds.items()):
                while rounds and rounds[0].until_s <= now_s:
                    over.append(rounds.popleft())
                if not rounds:
                    del self._rounds[digest]
        for each in over:
            untold = set(range(self._transport.ranks)) - each.told
            self._transport.withdraw(each.handle, untold)
        return len(over)

    def stats(self) -> MirrorStats:
        """Return the counts of this moment."""
        counts = self._counts
        return MirrorStats(
            transfers=self._budget.running,
            in_flight_nbytes=self._budget.used_nbytes,
            fetched=counts["fetched"],
            fetched_nbytes=counts["fetched_nbytes"],
            present=counts["present"],
            joined=counts["joined"],
            resumed=counts["resumed"],
            failed=counts["failed"],
        )

    def flush(self, *, timeout_s: float = 5.0) -> bool:
        """Wait until the acknowledgements so far were sent, and say whether they were."""
        deadline_s = time.monotonic() + timeout_s
        while self._counts["acks"] > self._counts["acks_done"]:
            if time.monotonic() > deadline_s:
                return False
            time.sleep(0.001)
        return True

    def close(self) -> None:
        """End what runs, and close the connections; the arena stays the caller's."""
        if self._closing.is_set():
            return
        self.flush(timeout_s=_CALL_S)
        self._closing.set()
        self._acks.put(None)
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
        for thread in self._threads:
            thread.join(_CALL_S)
        with suppress(TransportError):
            for rounds in self._rounds.values():
                for each in rounds:
                    each.until_s = 0.0
            self.expire()
        self._connections.close()

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
        return f"Mirror({self._transport.name}, {self._counts['fetched']:,} fetched)"

    def _fetch(
        self,
        remote: RemoteHandle,
        rank: int | None,
        deadline_s: float,
        progress: Callable[[int, int], object] | None,
    ) -> Handle:
        try:
            self._check_allowed(remote.location)
            self._check_size(remote)
            while True:
                with self._mutex:
                    self._check_open()
                    handle = self._present(remote, rank)
                    running = self._running.get(remote.digest)
                    if handle is None and running is None:
                        mine = self._running[remote.digest] = Future()
                if handle is not None:
                    self._ack(remote)
                    return handle
                if running is None:
                    return self._lead(mine, remote, rank, deadline_s, progress)
                self._counts["joined"] += 1
                self._join(running, remote, deadline_s)
        except MMFormatError:
            self._counts["failed"] += 1
            raise

    def _lead(
        self,
        mine: Future[None],
        remote: RemoteHandle,
        rank: int | None,
        deadline_s: float,
        progress: Callable[[int, int], object] | None,
    ) -> Handle:
        try:
            handle = self._transfer(remote, deadline_s, progress)
            with self._mutex:
                if rank is not None:
                    self._begin_round(remote.digest, handle, rank)
        except BaseException as error:
            with self._mutex:
                del self._running[remote.digest]
            mine.set_exception(error)
            raise
        with self._mutex:
            del self._running[remote.digest]
        mine.set_result(None)
        self._ack(remote)
        return handle

    def _join(self, running: Future[None], remote: RemoteHandle, deadline_s: float) -> None:
        """Wait for another's transfer; return when it is worth looking again."""
        with self._holding(remote):
            try:
                running.result(max(0.0, deadline_s - time.monotonic()))
            except (TransportTimeoutError, TimeoutError) as error:
                if time.monotonic() >= deadline_s:
                    raise TransportTimeoutError(
                        f"the transfer of {remote.nbytes:,} bytes that another request began did "
                        "not end in time"
                    ) from error
            except MMFormatError as error:
                # A copy: one exception raised in several threads would gather their tracebacks.
                raise type(error)(
                    error.reason, path=error.path, hint=error.hint, code=error.code
                ) from error

    def _present(self, remote: RemoteHandle, rank: int | None) -> Handle | None:
        rounds = self._rounds.get(remote.digest)
        if rank is not None and rounds:
            for each in rounds:
                if rank not in each.told:
                    each.told.add(rank)
                    self._counts["present"] += 1
                    if len(each.told) == self._transport.ranks:
                        rounds.remove(each)
                        if not rounds:
                            del self._rounds[remote.digest]
                    return each.handle
        handle = self._transport.find(_content(remote.digest))
        if handle is None:
            return None
        if handle.nbytes != remote.nbytes:
            self._transport.revoke(handle)
            raise TransportError("the handle's size is not its digest's", code="net-handle")
        self._counts["present"] += 1
        if rank is not None:
            self._begin_round(remote.digest, handle, rank)
        return handle

    def _begin_round(self, digest: bytes, handle: Handle, rank: int) -> None:
        if self._transport.ranks > 1:
            made = _Round(handle, time.monotonic() + self._round_s, {rank})
            self._rounds.setdefault(digest, deque()).append(made)

    def _transfer(
        self,
        remote: RemoteHandle,
        deadline_s: float,
        progress: Callable[[int, int], object] | None,
    ) -> Handle:
        with (
            self._holding(remote),
            self._budget.take(remote.nbytes, deadline_s),
            self._reserve(remote, deadline_s) as slot,
        ):
            transfer = Transfer(
                remote,
                np.frombuffer(slot.view, np.uint8),
                connections=self._connections,
                mirror=self.id,
                deadline_s=deadline_s,
                streams=self._streams if remote.nbytes >= STREAMS_FROM_NBYTES else 1,
                stream_s=self._stream_s,
                progress=progress,
                closing=self._closing,
            )
            try:
                transfer.run()
                self._validate(transfer.target)
            finally:
                self._counts["resumed"] += transfer.resumed
                # An error's traceback must not hold the slot.
                transfer.target = _NOTHING
            self._check_open()
            handle = slot.seal(identity=_content(remote.digest))
        self._counts["fetched"] += 1
        self._counts["fetched_nbytes"] += remote.nbytes
        return handle

    def _validate(self, target: np.ndarray[Any, np.dtype[np.uint8]]) -> None:
        # As any other message, so that no rank is sent what it would refuse. Plain tensors cost
        # nothing; dictionaries stay as they came.
        decode(target.data, limits=self._limits, library="numpy", expand=False)

    def _check_size(self, remote: RemoteHandle) -> None:
        self._limits.check("message_nbytes", remote.nbytes)
        if remote.nbytes > self._budget.nbytes:
            raise LimitError(
                f"a message may have {self._budget.nbytes:,} bytes here, got {remote.nbytes:,}",
                hint="raise budget_nbytes=",
            )

    def _check_allowed(self, location: str) -> None:
        scheme, _, address = location.partition("://")
        host, _ = split(address)
        if self._allow is not None and not self._allow & {host, address}:
            raise TransportError(f"{address} is not among allow=", code="net-refused")
        if scheme == "grpc" and not self._insecure and not is_loopback(host):
            raise TransportError(
                f"{address} offers no TLS, so anybody on the way could read and change the bytes",
                hint="give the publisher tls=; insecure=True trusts the network",
                code="net-insecure",
            )

    def _check_open(self) -> None:
        if self._closing.is_set():
            raise TransportError("the mirror is closed", code="closed")

    def _give_back(self, made: Future[Handle]) -> None:
        with suppress(MMFormatError):
            if made.exception() is None:
                self._transport.revoke(made.result())

    def _ticket(self, remote: RemoteHandle) -> bytes:
        return bytes(
            Ticket(
                segment_id=remote.segment_id,
                slot=remote.slot,
                generation=remote.generation,
                mirror=self.id,
            )
        )

    def _ack(self, remote: RemoteHandle) -> None:
        self._counts["acks"] += 1
        self._acks.put(remote)

    def _acknowledge(self) -> None:
        while (remote := self._acks.get()) is not None:
            for _ in range(2):
                with suppress(MMFormatError):
                    self._connections.act(
                        remote.location, ACK, self._ticket(remote), timeout_s=_CALL_S
                    )
                    break
            self._counts["acks_done"] += 1  # else the lease expires

    @contextmanager
    def _holding(self, remote: RemoteHandle) -> Iterator[None]:
        with self._mutex:
            self._held[remote] += 1
        try:
            yield
        finally:
            with self._mutex:
                self._held[remote] -= 1
                if not self._held[remote]:
                    del self._held[remote]

    def _reserve(self, remote: RemoteHandle, deadline_s: float) -> Slot:
        """Return room in the arena; while it is waited for, the publisher keeps the message."""
        try:
            return self._transport.reserve(remote.nbytes, timeout_s=0.0)
        except ArenaFullError:
            # Now, not at the next interval: the announcement may end before that.
            self._hold(remote)
        left_s = max(0.0, deadline_s - time.monotonic())
        return self._transport.reserve(remote.nbytes, timeout_s=left_s)

    def _keep_alive(self) -> None:
        while not self._closing.wait(_HOLD_INTERVAL_S):
            with suppress(TransportError):
                self.expire()
            with self._mutex:
                held = list(self._held)
            for remote in held:
                self._hold(remote)

    def _hold(self, remote: RemoteHandle) -> None:
        """Ask the publisher to keep a message; one that does not answer is met by the transfer."""
        with suppress(MMFormatError):
            self._connections.act(remote.location, HOLD, self._ticket(remote), timeout_s=_CALL_S)


def _content(digest: bytes) -> bytes:
    """Return what the arena knows the content by: never the identity of something put here."""
    return blake3(digest, derive_key_context=_CONTENT).digest()
