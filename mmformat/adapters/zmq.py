"""Send messages and handles over ZeroMQ sockets, without a copy and without a silent loss."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from mmformat._extras import require
from mmformat.adapters.frames import message_of
from mmformat.errors import TransportError, TransportTimeoutError
from mmformat.model import EncodedMessage, Limits
from mmformat.model.arguments import check_type
from mmformat.shm.handle import Handle

if TYPE_CHECKING:
    import zmq
    import zmq.asyncio
else:
    zmq = require("zmq", extra="zmq")
    require("zmq.asyncio", extra="zmq")

__all__ = ["Delivery", "Payload", "recv", "recv_async", "send", "send_async"]

Payload: TypeAlias = EncodedMessage | Handle

_ZERO_COPY_FROM_NBYTES: Final = 2**14
"""Below this, ZeroMQ's own copy is cheaper than telling Python when it is done."""
_RETRY_S: Final = 0.001
_LONGEST_S: Final = 2_000_000.0
_WITH_TOPIC: Final = frozenset({zmq.PUB, zmq.XPUB, zmq.SUB, zmq.XSUB})


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """Hold what was received, and where from.

    Parameters
    ----------
    payload : EncodedMessage or Handle
        What was sent. The frames of a message are ZeroMQ's own memory.
    route : bytes
        At a ROUTER, the peer's routing id, to be given to :func:`send` for the answer.
    topic : bytes
        At a SUB, the topic that it was published under.
    """

    payload: Payload
    route: bytes = b""
    topic: bytes = b""


def send(
    socket: zmq.Socket[Any],
    payload: Payload,
    *,
    route: bytes = b"",
    topic: bytes = b"",
    timeout_s: float | None = None,
) -> zmq.MessageTracker:
    """Send a message or a handle, whole or not at all.

    Parameters
    ----------
    socket : zmq.Socket
        PUSH, PAIR, DEALER, ROUTER, PUB, REQ or REP, connected or bound.
    payload : EncodedMessage or Handle
        What to send.
    route : bytes
        The receiver, at a ROUTER.
    topic : bytes
        What to publish under, at a PUB.
    timeout_s : float, optional
        How long to wait for room; None means for ever, 0 not at all.

    Returns
    -------
    zmq.MessageTracker
        Says when ZeroMQ is done with the memory: until ``tracker.done`` (or ``tracker.wait()``)
        the tensors must not be written to. It keeps them alive by itself.

    Raises
    ------
    TransportTimeoutError
        When the high-water mark left no room in time; nothing was sent, and it may be tried again.
    TransportError
        With code ``unroutable`` when a ROUTER knows no such peer, ``zmq-argument`` when an
        argument is of the wrong type, else ``zmq``.

    Notes
    -----
    **Copies**: none of frames of 16 KiB and more. A ROUTER is made to report unknown peers, and a
    PUB full queues, where ZeroMQ by itself would drop the message in silence.

    Examples
    --------
    >>> import mmformat as mm, zmq
    >>> with zmq.Context() as context, context.socket(zmq.PAIR) as a, context.socket(zmq.PAIR) as b:
    ...     bound, connected = a.bind("inproc://example"), b.connect("inproc://example")
    ...     tracker = send(a, mm.encode(mm.MultimodalInputs()))
    ...     recv(b, timeout_s=1.0).payload
    EncodedMessage(... frames, ... bytes)
    """
    _check_sent(socket, payload, route=route, topic=topic, timeout_s=timeout_s)
    _forbid_silent_loss(socket)
    parts, tracker = _parts(socket, payload, route, topic)
    deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
    while True:
        try:
            socket.send_multipart(parts, flags=zmq.NOBLOCK, copy=False)
        except zmq.Again as error:
            wait_s = _left(deadline_s)
            if wait_s <= 0:
                raise _no_room(timeout_s) from error
            if socket.poll(_milliseconds(wait_s), zmq.POLLOUT):
                time.sleep(_RETRY_S)  # a PUB always polls as ready
        except zmq.ZMQError as error:
            raise _translated(error) from error
        else:
            return tracker


def recv(
    socket: zmq.Socket[Any], *, limits: Limits | None = None, timeout_s: float | None = None
) -> Delivery:
    """Receive one message or handle, and leave the socket ready for the next whatever it was.

    Raises
    ------
    TransportTimeoutError
        When nothing came within ``timeout_s``.
    LimitError, DecodeError, TruncatedError
        When what came is too large, no message, or cut; it has been taken off the socket.
    TransportError
        With a handle's codes when a handle is malformed, ``zmq-argument``, else ``zmq``.

    Notes
    -----
    **Copies**: none. ZeroMQ has the whole message in memory before anybody can refuse it: bound
    what a peer may make it take with ``socket.maxmsgsize`` and ``socket.rcvhwm``.
    """
    _check_received(socket, limits=limits, timeout_s=timeout_s)
    try:
        if not socket.poll(None if timeout_s is None else _milliseconds(timeout_s), zmq.POLLIN):
            raise TransportTimeoutError(f"expected a message within {timeout_s:g} s, got none")
        frames = socket.recv_multipart(copy=False)
    except zmq.ZMQError as error:
        raise _translated(error) from error
    return _delivery(socket, frames, Limits.of(limits))


async def send_async(
    socket: zmq.asyncio.Socket,
    payload: Payload,
    *,
    route: bytes = b"",
    topic: bytes = b"",
    timeout_s: float | None = None,
) -> zmq.MessageTracker:
    """Send as :func:`send` does, without blocking the event loop.

    Raises
    ------
    TransportTimeoutError, TransportError
        As :func:`send`.
    """
    _check_sent(socket, payload, route=route, topic=topic, timeout_s=timeout_s)
    _forbid_silent_loss(socket)
    parts, tracker = _parts(socket, payload, route, topic)
    deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
    while True:
        try:
            await socket.send_multipart(parts, flags=zmq.NOBLOCK, copy=False)
        except zmq.Again as error:
            wait_s = _left(deadline_s)
            if wait_s <= 0:
                raise _no_room(timeout_s) from error
            if await _poll(socket, _milliseconds(wait_s), zmq.POLLOUT):
                await asyncio.sleep(_RETRY_S)
        except zmq.ZMQError as error:
            raise _translated(error) from error
        else:
            return tracker


async def recv_async(
    socket: zmq.asyncio.Socket, *, limits: Limits | None = None, timeout_s: float | None = None
) -> Delivery:
    """Receive as :func:`recv` does, without blocking the event loop.

    Raises
    ------
    TransportTimeoutError, LimitError, DecodeError, TruncatedError, TransportError
        As :func:`recv`.
    """
    _check_received(socket, limits=limits, timeout_s=timeout_s)
    wait_ms = None if timeout_s is None else _milliseconds(timeout_s)
    try:
        if not await _poll(socket, wait_ms, zmq.POLLIN):
            raise TransportTimeoutError(f"expected a message within {timeout_s:g} s, got none")
        frames = await socket.recv_multipart(copy=False)
    except zmq.ZMQError as error:
        raise _translated(error) from error
    return _delivery(socket, frames, Limits.of(limits))


async def _poll(socket: Any, wait_ms: int | None, flags: int) -> int:
    # pyzmq's stub of the asynchronous poll takes no arguments; the method does.
    return int(await socket.poll(wait_ms, flags))


def _check(value: object, kinds: Any, expected: str, name: str) -> None:
    check_type(value, kinds, expected, name=name, error=TransportError, code="zmq-argument")


def _check_received(socket: Any, *, limits: object, timeout_s: Any) -> None:
    _check(socket, zmq.Socket, "a zmq socket", "socket")
    if socket.closed:
        raise TransportError("expected an open socket, got a closed one", code="zmq")
    _check(limits, (Limits, type(None)), "Limits", "limits")
    _check(timeout_s, (int, float, type(None)), "seconds", "timeout_s")
    if timeout_s is not None and not timeout_s >= 0:
        raise TransportError(
            f"expected seconds of 0 or more, got {timeout_s!r}",
            path="$.timeout_s",
            code="zmq-argument",
        )


def _check_sent(
    socket: object, payload: object, *, route: object, topic: object, timeout_s: object
) -> None:
    _check_received(socket, limits=None, timeout_s=timeout_s)
    _check(route, bytes, "bytes", "route")
    _check(topic, bytes, "bytes", "topic")
    if not isinstance(payload, (EncodedMessage, Handle)):
        raise TransportError(
            f"expected an EncodedMessage or a Handle, got {type(payload).__name__}",
            path="$.payload",
            hint="mm.encode(inputs) makes a message of inputs",
            code="zmq-argument",
        )


def _forbid_silent_loss(socket: Any) -> None:
    if socket.type == zmq.ROUTER:
        socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
    elif socket.type in (zmq.PUB, zmq.XPUB):
        socket.setsockopt(zmq.XPUB_NODROP, 1)


def _parts(
    socket: Any, payload: Payload, route: bytes, topic: bytes
) -> tuple[list[bytes | zmq.Frame], zmq.MessageTracker]:
    parts: list[bytes | zmq.Frame] = []
    trackers: list[zmq.MessageTracker] = []
    if socket.type == zmq.ROUTER:
        parts.append(route)
    elif socket.type in _WITH_TOPIC:
        parts.append(topic)
    frames = (bytes(payload),) if isinstance(payload, Handle) else payload.frames
    for frame in frames:
        if len(frame) < _ZERO_COPY_FROM_NBYTES:
            parts.append(bytes(frame))
            continue
        zero_copy = zmq.Frame(frame, track=True, copy=False, copy_threshold=0)
        parts.append(zero_copy)
        if isinstance(zero_copy.tracker, zmq.MessageTracker):
            trackers.append(zero_copy.tracker)
    return parts, zmq.MessageTracker(*trackers)


def _delivery(socket: Any, frames: Sequence[zmq.Frame], limits: Limits) -> Delivery:
    views = [memoryview(frame.buffer) for frame in frames]
    route = topic = b""
    if socket.type == zmq.ROUTER:
        route = bytes(views.pop(0))
    elif socket.type in _WITH_TOPIC:
        topic = bytes(views.pop(0))
    if len(views) == 1 and bytes(views[0][:4]) == b"mmfh":
        return Delivery(payload=Handle.from_bytes(views[0]), route=route, topic=topic)
    return Delivery(payload=message_of(views, limits), route=route, topic=topic)


def _left(deadline_s: float | None) -> float:
    return 3600.0 if deadline_s is None else deadline_s - time.monotonic()


def _milliseconds(seconds: float) -> int:
    # ZeroMQ counts in an int of 32 bits; nobody waits for more than 23 days.
    return max(0, -int(-min(seconds, _LONGEST_S) * 1000 // 1))


def _no_room(timeout_s: float | None) -> TransportTimeoutError:
    return TransportTimeoutError(
        f"expected room in the socket's queue within {timeout_s or 0:g} s, got none",
        hint="nothing was sent; try again, let the receiver catch up, or raise socket.sndhwm",
    )


def _translated(error: zmq.ZMQError) -> TransportError:
    if error.errno == zmq.EHOSTUNREACH:
        return TransportError(
            "expected a connected peer with this route, got none", code="unroutable"
        )
    return TransportError(f"expected the socket to work, got: {error}", code="zmq")
