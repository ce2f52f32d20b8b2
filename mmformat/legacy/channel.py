"""Messages and descriptors over the socket between a sandbox and its parent."""

from __future__ import annotations

import socket
import struct
from typing import Final

__all__ = ["receive", "send"]

_FRAME: Final = struct.Struct("<QI")
# The bytes of a message, and how many descriptors come with it.


def send(channel: socket.socket, data: bytes, descriptors: tuple[int, ...] = ()) -> None:
    """Send one message with its descriptors."""
    head = _FRAME.pack(len(data), len(descriptors))
    if descriptors:
        socket.send_fds(channel, [head], list(descriptors))
    else:
        channel.sendall(head)
    channel.sendall(data)


def receive(channel: socket.socket, most_nbytes: int = 2**34) -> tuple[bytes, list[int]]:
    """Return the next message and its descriptors.

    Raises
    ------
    EOFError
        When the other end is gone, or announces more than ``most_nbytes``.
    """
    head, descriptors, _, _ = socket.recv_fds(channel, _FRAME.size, 3)
    while len(head) < _FRAME.size:
        more = channel.recv(_FRAME.size - len(head))
        if not more:
            raise EOFError
        head += more
    size, _ = _FRAME.unpack(head)
    if size > most_nbytes:
        raise EOFError
    data = bytearray(size)
    view = memoryview(data)
    while view:
        count = channel.recv_into(view)
        if not count:
            raise EOFError
        view = view[count:]
    return bytes(data), list(descriptors)
