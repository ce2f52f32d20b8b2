"""Child processes that serve one socket: frames with descriptors, start, first answer, end."""

from __future__ import annotations

import json
import socket
import struct
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final, Self

__all__ = ["Channel", "ChannelClosedError", "Child", "import_paths"]

_LENGTHS: Final = struct.Struct("<IQB")
"""Bytes of the JSON, bytes of the body, and how many descriptors come with them."""

_MOST_DESCRIPTORS: Final = 3
_MOST_NBYTES: Final = 2**34
_JOINED_NBYTES: Final = 2**16
_CHANNEL: Final = "{channel}"


class ChannelClosedError(Exception):
    """The other end is closed, or sent what is no frame; never leaves this package."""


class Channel:
    """Send and receive frames over a connected socket, which it owns.

    A frame is a JSON object, a body of bytes, and up to three descriptors.

    Raises
    ------
    ChannelClosedError
        From each method, when the other side is gone.
    TimeoutError
        From each method, after the time set by :meth:`set_timeout`.

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

    @classmethod
    def of(cls, descriptor: int) -> Self:
        """Return the channel of a child process, whose socket it inherited."""
        return cls(socket.socket(fileno=descriptor))

    def fileno(self) -> int:
        """Return the socket's descriptor, to wait for several channels at once."""
        return self._socket.fileno()

    def set_timeout(self, timeout_s: float | None) -> None:
        """Bound each following call; None waits for ever."""
        self._socket.settimeout(timeout_s)

    def send(
        self, head: dict[str, Any], body: Iterable[Any] = (), descriptors: Sequence[int] = ()
    ) -> None:
        """Send one frame; the parts of a large body are sent without joining them."""
        parts = [memoryview(part).cast("B") for part in body]
        text = json.dumps(head).encode()
        nbytes = sum(map(len, parts))
        first = _LENGTHS.pack(len(text), nbytes, len(descriptors)) + text
        if nbytes <= _JOINED_NBYTES:  # in one call: the other end wakes up once
            first = b"".join((first, *parts))
            parts = []
        try:
            if descriptors:
                first = first[socket.send_fds(self._socket, [first], list(descriptors)) :]
            self._socket.sendall(first)
            for part in parts:
                self._socket.sendall(part)
        except TimeoutError:
            raise
        except OSError as error:
            raise ChannelClosedError from error

    def receive(self) -> tuple[dict[str, Any], bytearray]:
        """Receive the next frame; its body is new, writable memory."""
        head, body, _ = self.receive_with_descriptors(0)
        return head, body

    def receive_with_descriptors(
        self, most: int = _MOST_DESCRIPTORS
    ) -> tuple[dict[str, Any], bytearray, list[int]]:
        """Receive the next frame and its descriptors, which the caller closes."""
        descriptors: list[int] = []
        try:
            if most:
                start, descriptors, _, _ = socket.recv_fds(self._socket, _LENGTHS.size, most)
                if not start:
                    raise ChannelClosedError
                start += self._read(_LENGTHS.size - len(start))
            else:
                start = bytes(self._read(_LENGTHS.size))
            text_nbytes, body_nbytes, _ = _LENGTHS.unpack(start)
            if body_nbytes > _MOST_NBYTES:
                raise ChannelClosedError
            head = json.loads(self._read(text_nbytes))
            if type(head) is not dict:
                raise ChannelClosedError
            return head, self._read(body_nbytes), list(descriptors)
        except TimeoutError:
            raise
        except (OSError, ValueError) as error:
            raise ChannelClosedError from error

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def _read(self, nbytes: int) -> bytearray:
        data = bytearray(nbytes)
        left = memoryview(data)
        while left:
            got = self._socket.recv_into(left)
            if not got:
                raise ChannelClosedError
            left = left[got:]
        return data


class Child:
    """Run Python in a child process and hold the channel to it.

    Parameters
    ----------
    arguments : sequence of str
        Those of Python; ``"{channel}"`` becomes the number of the child's socket.
    descriptors : sequence of int
        Others that the child inherits.
    **options
        As for :class:`subprocess.Popen`.

    Raises
    ------
    OSError
        When it cannot be started.

    Notes
    -----
    A child that dies closes its socket: the exchange with it ends in ChannelClosedError, and
    :meth:`end` says with which status. Not multiprocessing's spawn, which would run the caller's
    main module a second time.
    """

    def __init__(
        self, arguments: Sequence[str], *, descriptors: Sequence[int] = (), **options: Any
    ) -> None:
        ours, theirs = socket.socketpair()
        number = str(theirs.fileno())
        try:
            with theirs:
                self.process = subprocess.Popen(
                    [sys.executable, *(number if word == _CHANNEL else word for word in arguments)],
                    pass_fds=[theirs.fileno(), *descriptors],
                    stdin=subprocess.DEVNULL,
                    **options,
                )
        except BaseException:
            ours.close()
            raise
        self.channel = Channel(ours)

    def end(self, grace_s: float = 0.0) -> int:
        """Close the channel, wait, kill the child if it still runs; return its status."""
        self.channel.close()
        try:
            return self.process.wait(grace_s) if grace_s else self._killed()
        except subprocess.TimeoutExpired:
            return self._killed()

    def _killed(self) -> int:
        self.process.kill()
        return self.process.wait()


def import_paths() -> str:
    """Return the paths that this process imports from, as JSON for a child."""
    return json.dumps([str(Path(path).absolute()) for path in sys.path])
