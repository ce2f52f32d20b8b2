"""Frames between the pool and a worker: JSON that says what it is, then raw bytes."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Iterable
from typing import Any, Final

__all__ = ["Channel", "ChannelClosedError"]

_LENGTHS: Final = struct.Struct("<IQ")


class ChannelClosedError(Exception):
    """Say that the other side is gone; it never leaves this package."""


class Channel:
    """Send and receive frames over a connected socket, which it owns.

    Raises
    ------
    ChannelClosedError
        From each method, when the other side is gone.

    Examples
    --------
    >>> left, right = map(Channel, socket.socketpair())
    >>> left.send({"a": 1}, [b"xy", b"z"])
    >>> head, body = right.receive()
    >>> head, bytes(body)
    ({'a': 1}, b'xyz')
    >>> left.close(), right.close()
    (None, None)
    """

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection

    def send(self, head: dict[str, Any], body: Iterable[Any] = ()) -> None:
        """Send one frame; the parts of the body are sent where they lie, joined by the reader."""
        parts = [memoryview(part).cast("B") for part in body]
        text = json.dumps(head).encode()
        try:
            self._socket.sendall(_LENGTHS.pack(len(text), sum(map(len, parts))) + text)
            for part in parts:
                self._socket.sendall(part)
        except OSError as error:
            raise ChannelClosedError from error

    def receive(self) -> tuple[dict[str, Any], memoryview]:
        """Return the next frame; its body is memory of its own, which may be written to."""
        text_nbytes, body_nbytes = _LENGTHS.unpack(self._read(_LENGTHS.size))
        head = json.loads(bytes(self._read(text_nbytes)))
        return head, self._read(body_nbytes)

    def close(self) -> None:
        """Close the socket, so that the other side sees the end."""
        self._socket.close()

    def _read(self, nbytes: int) -> memoryview:
        view = memoryview(bytearray(nbytes))
        done = 0
        while done < nbytes:
            try:
                got = self._socket.recv_into(view[done:])
            except OSError as error:
                raise ChannelClosedError from error
            if not got:
                raise ChannelClosedError
            done += got
        return view
