"""Messages and descriptors over the socket between a sandbox and its parent."""

from __future__ import annotations

import socket
import struct
from typing import Final

__all__ = ["receive", "send"]

_FRAME: Final = struct.Struct("<QI")
# The bytes of a message, and how many descriptors come with it.
_MOST_DESCRIPTORS: Final = 3


def send(channel: socket.socket, data: bytes, descriptors: tuple[int, ...] = ()) -> None:
    """Send one message with its descriptors."""
    # In one call where it fits: the other end wakes up once.
    message = _FRAME.pack(len(data), len(descriptors)) + data
    if descriptors:
        message = message[socket.send_fds(channel, [message], list(descriptors)) :]
    if message:
        channel.sendall(message)


def receive(channel: socket.socket, most_nbytes: int = 2**34) -> tuple[bytearray, list[int]]:
    """Return the next message and its descriptors.

    Raises
    ------
    EOFError
        When the other end is gone, or announces more than ``most_nbytes``.
    """
    head, descriptors, _, _ = socket.recv_fds(channel, _FRAME.size, _MOST_DESCRIPTORS)
    while len(head) < _FRAME.size:
        more = channel.recv(_FRAME.size - len(head))
        if not more:
            raise EOFError
        head += more
    size, _ = _FRAME.unpack(head)
    if size > most_nbytes:
        raise EOFError
    data = bytearray(size)
    target = memoryview(data)
    while target:
        count = channel.recv_into(target)
        if not count:
            raise EOFError
        target = target[count:]
    return data, list(descriptors)
