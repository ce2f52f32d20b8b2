"""Open the file behind an arena, and trust nothing about it."""

from __future__ import annotations

import mmap
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mmformat.errors import TransportError
from mmformat.shm.handle import check_name
from mmformat.shm.huge_pages import room_for
from mmformat.shm.layout import CREATING, HEADER_NBYTES, STATE_WORD, Layout

__all__ = ["MEMFD_PREFIX", "SHM_DIRECTORY", "Segment", "lock_description", "open_fd", "open_path"]

SHM_DIRECTORY: Final = Path("/dev", "shm")

MEMFD_PREFIX: Final = "mmf-memfd-"
"""How arenas without a file are called, so that a rank can be told what to do with the name."""


@dataclass(slots=True, kw_only=True)
class Segment:
    """Hold an open segment: what its header says, and two open file descriptions.

    The locks have a description of their own: a mapping keeps the description that it was made
    from, also in a forked child, and the kernel drops a lock only with the last user of it.
    """

    name: str
    path: Path | None
    layout: Layout
    fd: int
    lock_fd: int

    def map_shared(self, *, offset: int, nbytes: int, writable: bool) -> mmap.mmap:
        """Map a range that every process sees; no byte is copied."""
        protection = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
        with room_for(nbytes, offset):
            return mmap.mmap(self.fd, nbytes, mmap.MAP_SHARED, protection, offset=offset)

    def close(self) -> None:
        """Close both descriptions, the lock's last; a second call does nothing."""
        for attribute in ("fd", "lock_fd"):
            descriptor = getattr(self, attribute)
            setattr(self, attribute, -1)
            if descriptor >= 0:
                os.close(descriptor)

    def unlink(self) -> None:
        """Remove the name when it is still this segment's; a second call does nothing."""
        if self.path is None or self.fd < 0:
            return
        try:
            there, ours = self.path.lstat(), os.fstat(self.fd)
            if (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino):
                self.path.unlink()
        except FileNotFoundError:
            pass


def lock_description(fd: int) -> int:
    """Open the same file once more, for locks that no mapping shares."""
    # /proc/self/fd opens the same inode again, whatever has become of its name.
    try:
        return os.open(f"/proc/self/fd/{fd}", os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise TransportError(
            f"expected to open the segment again for its locks, got: {error}",
            hint="/proc must be mounted",
            code="segment-locks",
        ) from error


def open_path(name: str, *, directory: Path) -> Segment:
    """Open a segment by its name and check everything that can be checked.

    Raises
    ------
    TransportError
        With code ``segment-gone``, ``segment-memfd`` (no path leads there), ``segment-unsafe``
        (not ours, not private, no plain file), or those of :meth:`Layout.unpack`.
    """
    path = directory / check_name(name)
    if name.startswith(MEMFD_PREFIX):
        raise TransportError(
            f"expected an arena with a file, got {name}, whose memory has no name",
            hint="its producer sends its descriptor (socket.send_fds([arena.fileno()])), and the "
            "rank calls Arena.attach_fd(fd, rank=...)",
            code="segment-memfd",
        )
    try:
        fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError as error:
        raise TransportError(
            f"expected a segment called {name}, got none in {directory}",
            hint="its producer has closed it, or it was swept after its producer died; an arena "
            "with backing='file' is found by attach(..., directory=...), one with "
            "backing='memfd' by attach_fd(fd)",
            code="segment-gone",
        ) from error
    except OSError as error:
        raise TransportError(
            f"expected a segment that may be opened, got: {error.strerror}", code="segment-unsafe"
        ) from error
    return open_fd(fd, name=name, path=path)


def open_fd(fd: int, *, name: str, path: Path | None = None) -> Segment:
    """Check an open segment; the descriptor belongs to the result, or is closed.

    Raises
    ------
    TransportError
        As :func:`open_path`.
    """
    lock_fd = -1
    try:
        status = os.fstat(fd)
        mode = stat.S_IMODE(status.st_mode)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or mode != 0o600:
            raise TransportError(
                f"expected a plain file of user {os.geteuid()} with mode 0600, got one of user "
                f"{status.st_uid} with mode {status.st_mode:o}",
                code="segment-unsafe",
            )
        # The state first: its producer declares the header ready behind a fence.
        state = os.pread(fd, 8, STATE_WORD * 8)
        header = os.pread(fd, HEADER_NBYTES, 0)
        if len(state) < 8 or int.from_bytes(state, "little") == CREATING:
            raise TransportError(
                "expected a segment that is ready, got one that is being created",
                code="segment-creating",
            )
        layout = Layout.unpack(header, segment_nbytes=status.st_size)
        lock_fd = lock_description(fd)
    except BaseException as error:
        os.close(fd)
        if isinstance(error, OSError) and not isinstance(error, TransportError):
            raise TransportError(
                f"expected a segment that can be read, got: {error}", code="segment-unsafe"
            ) from error
        raise
    return Segment(name=name, path=path, layout=layout, fd=fd, lock_fd=lock_fd)
