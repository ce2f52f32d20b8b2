"""Handles that the engine core dropped before any worker was told: their way back to the arena."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import struct
import threading
from collections import deque
from collections.abc import Iterator
from typing import Final

from mmformat.arena import Arena
from mmformat.errors import TransportError
from mmformat.shm import Handle

__all__ = ["ReturnedHandles", "flush", "give_back"]

_CREDENTIALS: Final = struct.Struct("3i")
_LENGTH: Final = struct.Struct("<H")
_MOST_NBYTES: Final = 2**15
_LOG: Final = logging.getLogger("vllm.mmformat")


def _address(arena_name: str) -> bytes:
    # In the kernel's own name space: there is no file that a killed server could leave.
    return b"\0mmformat-returns-" + arena_name.encode()


class ReturnedHandles:
    """Take back handles that were dropped on their way, in the process that put them.

    A request that is aborted while it waits in the engine core never reaches a worker, so no worker
    can release its slot. The core gives the handle back here, and the slot is free again.

    Parameters
    ----------
    arena : Arena
        Where the handles are of.

    Notes
    -----
    Only processes of the same user are heard: the kernel says whose a message is.

    Examples
    --------
    >>> import mmformat as mm
    >>> with mm.Arena.create(nbytes=2**20, ranks=1) as arena:
    ...     returns = ReturnedHandles(arena)
    ...     handle = bytes(arena.put(mm.MultimodalInputs(request_data={"im_token_id": 7})))
    ...     give_back(handle)
    ...     returns.collect(), arena.stats().slots_granted
    ...     returns.close()
    (1, 0)
    """

    def __init__(self, arena: Arena) -> None:
        self._arena = arena
        self._socket: socket.socket | None = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
            self._socket.bind(_address(arena.name))
            self._socket.setblocking(False)
        except OSError as error:
            self.close()
            _LOG.warning("slots of requests that are dropped early stay held: %s", error)

    def collect(self) -> int:
        """Free the slots of all handles that came back, and return how many those were."""
        count = 0
        while self._socket is not None:
            try:
                data, ancillary, _, _ = self._socket.recvmsg(
                    _MOST_NBYTES, socket.CMSG_SPACE(_CREDENTIALS.size)
                )
            except BlockingIOError:
                break
            users = [
                _CREDENTIALS.unpack(part)[1]
                for level, kind, part in ancillary
                if (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS)
            ]
            if users != [os.getuid()]:
                continue
            for part in _unpacked(data):
                with contextlib.suppress(TransportError):  # a message that is no handle
                    handle = Handle.from_bytes(part)
                    if handle.name == self._arena.name:
                        self._arena.revoke(handle)
                        count += 1
        return count

    def close(self) -> None:
        """Take nothing back any more; a second call does nothing."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def __del__(self) -> None:
        self.close()


def _unpacked(data: bytes) -> Iterator[bytes]:
    position = 0
    while position + _LENGTH.size <= len(data):
        (length,) = _LENGTH.unpack_from(data, position)
        position += _LENGTH.size
        yield data[position : position + length]
        position += length


class _Outbox:
    """Send without waiting; what the kernel has no room for goes with the next one.

    It queues ten messages where nobody told it otherwise, so what waits goes in one.
    """

    def __init__(self) -> None:
        self._left: deque[bytes] = deque()
        self._mutex = threading.Lock()

    def send(self, handle: bytes) -> None:
        self._left.append(handle)
        self.flush()

    def flush(self) -> None:
        # A finalizer may run within itself; whoever holds the lock sends what it left.
        while self._left and self._mutex.acquire(blocking=False):
            try:
                if not self._drain():
                    return
            finally:
                self._mutex.release()

    def _drain(self) -> bool:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
            out.setblocking(False)
            while self._left:
                count, name, message = self._packed()
                try:
                    out.sendto(message, _address(name))
                except BlockingIOError:
                    return False
                except OSError:
                    pass  # the producer is gone, and its arena with it
                for _ in range(count):
                    self._left.popleft()
        return True

    def _packed(self) -> tuple[int, str, bytes]:
        name = Handle.from_bytes(self._left[0]).name
        message = bytearray()
        count = 0
        for index in range(len(self._left)):  # a finalizer may append meanwhile
            handle = self._left[index]
            if len(message) + len(handle) > _MOST_NBYTES - _LENGTH.size:
                break
            if Handle.from_bytes(handle).name != name:
                break
            message += _LENGTH.pack(len(handle)) + handle
            count += 1
        return count, name, bytes(message)


_OUTBOX: Final = _Outbox()


def give_back(handle: bytes) -> None:
    """Tell the producer of a handle that nobody will read it.

    Notes
    -----
    Only for a handle that was sent to no rank: its slot is used again at once.
    """
    _OUTBOX.send(handle)


def flush() -> None:
    """Send what there was no room for; the engine core calls it with each request that comes."""
    _OUTBOX.flush()
