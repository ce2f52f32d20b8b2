"""Write files whole or not at all, and never in the place of something that is not a file."""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

from mmformat.errors import TransportError

__all__ = ["open_new", "written_whole"]

_PRIVATE: Final = 0o600


def open_new(path: Path) -> int:
    """Open a file that is new and its owner's alone: a link in its place is not followed.

    Raises
    ------
    OSError
        When it cannot be made.
    """
    path.unlink(missing_ok=True)
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _PRIVATE)


@contextmanager
def written_whole(
    path: str | os.PathLike[str],
    *,
    force: bool = True,
    sync: bool = True,
    partial: str | None = None,
) -> Iterator[BinaryIO]:
    """Open a path for writing; what is there changes when everything was written, or not at all.

    Parameters
    ----------
    path : path
        A new name, or a regular file, whose mode is kept. A symbolic link stands for what it
        points to. Into a pipe or a character device the bytes are written directly.
    force : bool
        Whether a regular file that is there may be replaced.
    sync : bool
        Whether the file is on the disk at the end; without it the caller syncs many at once.
    partial : str, optional
        The name of the file until it is whole; a new one each time when omitted. One that a killed
        run left is written over.

    Raises
    ------
    TransportError
        If the path is a folder, a socket or a block device, or cannot be written; with the code
        ``file-exists`` if there is a file and ``force`` is False. What was there stays.

    Notes
    -----
    A new file is readable by its owner alone.
    """
    target = Path(path)
    try:
        mode = _mode_of(target)
        if mode is None or stat.S_ISREG(mode):
            if mode is not None and not force:
                raise TransportError(f"{target} exists", code="file-exists")
            # Beside the file itself, not beside a link to it.
            yield from _replaced(Path(os.path.realpath(target)), mode, sync, partial)
        elif stat.S_ISFIFO(mode) or stat.S_ISCHR(mode):
            with os.fdopen(_open_stream(target), "wb") as file:
                yield file
        elif stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, "it is a folder")
        else:
            raise OSError(errno.EINVAL, "it is neither a file nor a pipe")
    except OSError as error:
        if isinstance(error, TransportError):
            raise
        reason = error.strerror or error
        if error.errno == errno.ENXIO:
            reason = "no process has the pipe open for reading"
        raise TransportError(f"cannot write {target}: {reason}") from error


def _mode_of(path: Path) -> int | None:
    """Return what a path, or what a link points to, is; None for nothing."""
    try:
        return path.stat().st_mode
    except FileNotFoundError:
        return None


def _replaced(
    target: Path, mode: int | None, sync: bool, partial: str | None
) -> Iterator[BinaryIO]:
    if partial is None:
        descriptor, temporary = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    else:
        temporary = os.fspath(target.with_name(partial))
        descriptor = open_new(Path(temporary))
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fchmod(file.fileno(), _PRIVATE if mode is None else stat.S_IMODE(mode))
            if sync:
                os.fsync(file.fileno())
        Path(temporary).replace(target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _open_stream(path: Path) -> int:
    """Open a pipe that somebody reads, or a character device, without waiting for a reader."""
    descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    os.set_blocking(descriptor, True)
    return descriptor
