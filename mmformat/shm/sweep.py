"""List the segments of this user, and remove those whose processes are all dead."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from mmformat.errors import TransportError
from mmformat.shm import liveness, segment
from mmformat.shm.handle import NAME_PATTERN
from mmformat.shm.layout import MAX_READERS
from mmformat.shm.segment import SHM_DIRECTORY

__all__ = ["SegmentInfo", "describe", "list_segments", "sweep"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentInfo:
    """Describe a segment found in a directory."""

    name: str
    nbytes: int
    producer_pid: int | None
    producer_alive: bool
    ranks: int | None
    ranks_alive: int
    created_ns: int | None
    same_boot: bool | None
    problem: str | None
    """Why its header is not to be trusted; None for a good one."""

    @property
    def dead(self) -> bool:
        """Whether nobody holds a lock on it."""
        return not self.producer_alive and self.ranks_alive == 0


def _candidates(directory: Path) -> list[Path]:
    try:
        return sorted(
            path for path in directory.iterdir() if NAME_PATTERN.fullmatch(path.name) is not None
        )
    except OSError as error:
        raise TransportError(
            f"expected a directory at {directory}, got: {error}", code="segment-directory"
        ) from error


def _open_ours(path: Path) -> int | None:
    # Without checking the content: a producer may have died before it wrote any.
    try:
        fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
        os.close(fd)
        return None
    return fd


def list_segments(directory: Path = SHM_DIRECTORY) -> list[SegmentInfo]:
    """Return every segment of this user, dead or alive, by name.

    Raises
    ------
    TransportError
        When there is no such directory.
    """
    found = []
    for path in _candidates(directory):
        info = describe(path)
        if info is not None:
            found.append(info)
    return found


def describe(path: Path) -> SegmentInfo | None:
    """Return who holds one segment; None when it is gone or not this user's."""
    fd = _open_ours(path)
    if fd is None:
        return None
    try:
        return _describe(path, fd)
    finally:
        os.close(fd)


def _describe(path: Path, fd: int) -> SegmentInfo:
    layout = problem = None
    try:
        opened = segment.open_path(path.name, directory=path.parent)
        layout = opened.layout
        opened.close()
    except TransportError as error:
        problem = str(error)
    alive = [liveness.is_locked(fd, liveness.rank_byte(rank)) for rank in range(MAX_READERS)]
    return SegmentInfo(
        name=path.name,
        nbytes=os.fstat(fd).st_size,
        producer_pid=layout.producer_pid if layout else None,
        producer_alive=liveness.is_locked(fd, liveness.PRODUCER_BYTE),
        ranks=layout.ranks if layout else None,
        ranks_alive=sum(alive),
        created_ns=layout.created_ns if layout else None,
        same_boot=layout.boot_id == liveness.boot_id() if layout else None,
        problem=problem,
    )


def sweep(directory: Path = SHM_DIRECTORY) -> list[str]:
    """Remove the segments of this user that no living process holds, and return their names.

    Raises
    ------
    TransportError
        When there is no such directory.

    Notes
    -----
    The kernel's locks decide, not pids: it takes every lock of the segment first, so a producer or
    reader that comes at the same moment is refused or sees that the name is gone.
    """
    removed = []
    for path in _candidates(directory):
        fd = _open_ours(path)
        if fd is None:
            continue
        try:
            if not liveness.try_lock_all(fd):
                continue
            there, ours = path.lstat(), os.fstat(fd)
            if (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino):
                path.unlink()
                removed.append(path.name)
        except FileNotFoundError:
            pass
        finally:
            os.close(fd)
    return removed
