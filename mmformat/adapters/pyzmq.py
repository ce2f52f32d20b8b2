"""Drop-in for code that calls ``send_pyobj`` and ``recv_pyobj`` today; nothing is unpickled."""

from __future__ import annotations

from typing import Any, Final

from mmformat._extras import require
from mmformat.adapters.frames import message_of
from mmformat.codec import decode, encode
from mmformat.errors import DecodeError, UnsafePickleError
from mmformat.model import EncodedMessage, Limits, MultimodalInputs

__all__ = ["recv_mm", "send_mm"]

_VALUE: Final = "$pyzmq"
_ZERO_COPY_FROM_NBYTES: Final = 2**14
_HIGHEST_PROTOCOL: Final = 5


def send_mm(socket: Any, obj: Any, flags: int = 0, *, copy: bool = True) -> Any:
    """Send an object where ``socket.send_pyobj(obj)`` stood.

    Parameters
    ----------
    socket : zmq.Socket or zmq.asyncio.Socket
        Of any type that sends.
    obj : MultimodalInputs, or any value that a message carries
        Tensors, scalars, str, bytes, None, and lists, tuples and dicts of these, nested.
    flags : int
        As for ``send_pyobj``, such as ``zmq.NOBLOCK``.
    copy : bool, default True
        False sends large tensors from where they lie; they must then not be written to until the
        returned tracker is done.

    Returns
    -------
    None, MessageTracker, or an awaitable of these
        None with a copy, else what says when ZeroMQ is done with the memory; to be awaited where
        the socket is asynchronous.

    Raises
    ------
    EncodeError
        When a value cannot travel; the path names it. Convert an engine's classes with their
        adapter.

    Notes
    -----
    **Copies**: each tensor byte once, or with ``copy=False`` none of frames of 16 KiB and more.
    ZeroMQ's own errors are raised as ``send_pyobj`` raises them.

    Examples
    --------
    >>> import numpy as np, zmq
    >>> with zmq.Context() as context, context.socket(zmq.PAIR) as a, context.socket(zmq.PAIR) as b:
    ...     bound, connected = a.bind("inproc://pyobj"), b.connect("inproc://pyobj")
    ...     sent = send_mm(a, {"ids": [1, 2], "pixel_values": np.ones((2, 3), np.float32)})
    ...     recv_mm(b)["pixel_values"].shape
    (2, 3)
    """
    zmq = require("zmq", extra="zmq")
    inputs = obj if isinstance(obj, MultimodalInputs) else _wrapped(obj)
    frames: list[Any] = []
    trackers: list[Any] = []
    for frame in encode(inputs).frames:
        view = memoryview(frame)
        if copy or view.nbytes < _ZERO_COPY_FROM_NBYTES:
            frames.append(bytes(view))
        else:
            frames.append(zmq.Frame(frame, track=True, copy=False, copy_threshold=0))
            trackers.append(frames[-1].tracker)
    sent = socket.send_multipart(frames, flags=flags, copy=False)
    # The socket's own tracker would watch the last frame alone.
    tracker = None if copy else zmq.MessageTracker(*trackers)
    if not hasattr(sent, "__await__"):
        return tracker

    async def finished() -> Any:
        await sent
        return tracker

    return finished()


def recv_mm(socket: Any, flags: int = 0, *, limits: Limits | None = None) -> Any:
    """Receive an object where ``socket.recv_pyobj()`` stood.

    Parameters
    ----------
    socket : zmq.Socket or zmq.asyncio.Socket
        Of any type that receives.
    flags : int
        As for ``recv_pyobj``.
    limits : Limits, optional
        What a message may ask for.

    Returns
    -------
    object, or an awaitable of it
        What was sent.

    Raises
    ------
    UnsafePickleError
        When the peer still sends pickles; not one byte of it is executed.
    DecodeError, LimitError
        When what came is no message of this format.

    Notes
    -----
    **Copies**: none; the tensors keep the received frames alive.
    """
    received = socket.recv_multipart(flags=flags, copy=False)
    if not hasattr(received, "__await__"):
        return _opened(received, Limits.of(limits))

    async def opened() -> Any:
        return _opened(await received, Limits.of(limits))

    return opened()


def _wrapped(obj: Any) -> MultimodalInputs:
    return MultimodalInputs(request_data={_VALUE: obj})


def _opened(frames: list[Any], limits: Limits) -> Any:
    views = [memoryview(frame.buffer) for frame in frames]
    try:
        message: EncodedMessage = message_of(views, limits)
    except DecodeError as error:
        if len(views) == 1 and _looks_pickled(views[0]):
            raise UnsafePickleError(
                "expected a message, got a pickle",
                hint="the peer still calls send_pyobj: let it call send_mm",
            ) from error
        raise
    inputs = decode(message, limits=limits)
    if not inputs.items and list(inputs.request_data) == [_VALUE]:
        return inputs.request_data[_VALUE]
    return inputs


def _looks_pickled(view: memoryview) -> bool:
    return len(view) > 1 and view[0] == 0x80 and view[1] <= _HIGHEST_PROTOCOL and view[-1] == 0x2E
