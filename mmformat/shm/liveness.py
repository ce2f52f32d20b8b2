"""Who is alive: locks that the kernel drops, and what tells two processes of one pid apart."""

from __future__ import annotations

import fcntl
import os
import struct
from pathlib import Path
from typing import Final

from mmformat.shm.layout import MAX_READERS

__all__ = [
    "PRODUCER_BYTE",
    "boot_id",
    "is_locked",
    "rank_byte",
    "start_time",
    "try_lock",
    "try_lock_all",
]

PRODUCER_BYTE: Final = 0
"""The byte of the segment whose lock says that the producer lives."""

# struct flock where long is 64 bits (x86-64 and aarch64 share asm-generic/fcntl.h): two shorts, a
# hole of four, two off_t, a pid_t, a hole of four. l_pid must be 0 for F_OFD_*, or it is EINVAL.
_FLOCK: Final = struct.Struct("@hhqqi4x")


def rank_byte(rank: int) -> int:
    """Return the byte of the segment whose lock says that this reader lives."""
    return 1 + rank


def _set(fd: int, kind: int, start: int, nbytes: int) -> None:
    fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _FLOCK.pack(kind, os.SEEK_SET, start, nbytes, 0))


def try_lock(fd: int, byte: int) -> bool:
    """Take the lock of one byte for this open file description, or say that another has it."""
    try:
        _set(fd, fcntl.F_WRLCK, byte, 1)
    except (BlockingIOError, PermissionError):
        return False
    return True


def try_lock_all(fd: int) -> bool:
    """Take every lock that a producer or a reader could hold, or say that somebody lives."""
    try:
        _set(fd, fcntl.F_WRLCK, 0, 1 + MAX_READERS)
    except (BlockingIOError, PermissionError):
        return False
    return True


def is_locked(fd: int, byte: int, *, count: int = 1) -> bool:
    """Say whether another open file description holds a lock of these bytes."""
    query = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, byte, count, 0)
    answer = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, query)
    return bool(_FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)


def start_time(pid: int) -> int | None:
    """Return a process's start time in ticks since boot, or None when it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    # The name may hold blanks and parentheses; the 22nd field is the 20th after the last ")".
    return int(text.rpartition(")")[2].split()[19])


def boot_id() -> bytes:
    """Return the 16 bytes that tell this boot of the kernel from every other."""
    try:
        text = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")
        return bytes.fromhex(text.strip().replace("-", ""))
    except (OSError, ValueError):
        return bytes(16)
