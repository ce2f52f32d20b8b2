"""Which messages a folder holds and whose items are in them: a log beside them that may be lost."""

from __future__ import annotations

import fcntl
import json
import os
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

from mmformat._files import open_new
from mmformat.codec.describe import describe
from mmformat.errors import MMFormatError, TransportError, TransportTimeoutError
from mmformat.model.limits import Limits

__all__ = ["LOG", "SUFFIX", "DatasetIndex", "Entry"]

SUFFIX: Final = ".arrows"
LOG: Final = ".mmformat-dataset.jsonl"
"""The name of the log: a line a message, written before the message has its name."""

_WASTE: Final = 1000
_READ: Final = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
_WRITE: Final = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Entry(NamedTuple):
    """Say what a message file is and which items it holds.

    Parameters
    ----------
    name : str
        Its path within the folder, with slashes.
    nbytes, mtime_ns : int
        Size and time of its last change; of another file of that name they differ.
    identities : tuple of (str or None)
        Of its items, in their order.
    """

    name: str
    nbytes: int
    mtime_ns: int
    identities: tuple[str | None, ...]


class DatasetIndex:
    """Read, write and rebuild the log of a folder.

    The files are the truth, the log spares reading them: a file that it does not know, or knows
    otherwise, is read; a line without its file is ignored. So the log can be deleted, cut short
    or copied from elsewhere at any time.

    Parameters
    ----------
    folder : Path
        Of the messages.

    Examples
    --------
    >>> import tempfile
    >>> DatasetIndex(Path(tempfile.mkdtemp())).scan(Limits())
    ([], {})
    """

    __slots__ = ("_inode", "_lines", "_offset", "folder", "known")

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.known: dict[str, Entry] = {}
        self._inode = -1
        self._offset = 0
        self._lines = 0

    def catch_up(self) -> list[Entry]:
        """Return what was written to the log since it was last read."""
        try:
            # Whatever is there in its place is not waited for.
            with os.fdopen(os.open(self.folder / LOG, _READ), "rb") as file:
                status = os.fstat(file.fileno())
                if not stat.S_ISREG(status.st_mode):
                    return []
                if status.st_ino != self._inode or status.st_size < self._offset:
                    self._inode, self._offset, self._lines = status.st_ino, 0, 0
                file.seek(self._offset)
                data = file.read()
        except OSError:  # there is none, or it is not for us to read
            return []
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        fresh = []
        for line in whole.splitlines():
            self._lines += 1
            entry = _parsed(line)
            if entry is not None:
                self.known[entry.name] = entry
                fresh.append(entry)
        return fresh

    def scan(self, limits: Limits) -> tuple[list[Entry], dict[str, MMFormatError]]:
        """Return the folder's messages by name, and those that cannot be read, with the reason.

        Raises
        ------
        TransportError
            When the folder cannot be listed.

        Notes
        -----
        **Cost**: a file that the log knows is looked up, not opened.
        """
        self.catch_up()
        entries: list[Entry] = []
        bad: dict[str, MMFormatError] = {}
        fresh: list[Entry] = []
        for name, status in sorted(_files(self.folder)):
            entry = self.known.get(name)
            if entry is None or (entry.nbytes, entry.mtime_ns) != status:
                try:
                    told = describe(self.folder / name, limits=limits)
                except MMFormatError as error:
                    bad[name] = error
                    continue
                entry = Entry(name, *status, tuple(item.identity for item in told.items))
                fresh.append(entry)
            entries.append(entry)
        self.known = {entry.name: entry for entry in entries}
        self._remember(fresh)
        return entries, bad

    def _remember(self, fresh: list[Entry]) -> None:
        wasteful = self._lines > 2 * len(self.known) + _WASTE
        if not fresh and not wasteful:
            return
        try:
            with self.locked(timeout_s=0.0) as log:
                if wasteful:
                    self.catch_up()  # nobody's line is lost
                    self._rewrite()
                else:
                    log.append(fresh)
        except (TransportError, OSError):
            return  # it spares the next one some reading, no more

    def _rewrite(self) -> None:
        partial = self.folder / f"{LOG}.partial"
        with os.fdopen(open_new(partial), "wb") as file:
            file.write(b"".join(map(_line, self.known.values())))
            os.fchmod(file.fileno(), stat.S_IMODE((self.folder / LOG).stat().st_mode))
        partial.replace(self.folder / LOG)

    @contextmanager
    def locked(self, *, timeout_s: float) -> Iterator[_Log]:
        """Hold the log for writing; the kernel lets go of it when this process dies.

        Raises
        ------
        TransportTimeoutError
            When another writer holds it for longer.
        TransportError
            When it cannot be written.
        """
        end_s = time.monotonic() + timeout_s
        while True:
            try:
                descriptor = os.open(self.folder / LOG, _WRITE, 0o600)
            except OSError as error:
                raise TransportError(f"expected to write to {self.folder}, got: {error}") from error
            try:
                _lock(descriptor, end_s, self.folder)
                # While we waited it may have been rewritten: then ours is not the log any more.
                if _is_at(descriptor, self.folder / LOG):
                    yield _Log(descriptor)
                    return
            finally:
                os.close(descriptor)

    def exists(self, entry: Entry) -> bool:
        """Return whether the file of an entry is there, as the log says it is."""
        try:
            status = (self.folder / entry.name).stat()
        except OSError:
            return False
        return (status.st_size, status.st_mtime_ns) == (entry.nbytes, entry.mtime_ns)


class _Log:
    """The log while it is held."""

    __slots__ = ("_descriptor",)

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def append(self, entries: Iterable[Entry]) -> None:
        """Write a line an entry, behind a line that a killed writer left unfinished."""
        size = os.fstat(self._descriptor).st_size
        torn = size > 0 and os.pread(self._descriptor, 1, size - 1) != b"\n"
        data = (b"\n" if torn else b"") + b"".join(map(_line, entries))
        while data:
            data = data[os.write(self._descriptor, data) :]


def _lock(descriptor: int, end_s: float, folder: Path) -> None:
    pause_s = 0.001
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError as error:
            if time.monotonic() >= end_s:
                raise TransportTimeoutError(
                    f"expected no other writer to {folder}, got one that does not end"
                ) from error
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, 0.05)


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _files(folder: Path) -> Iterator[tuple[str, tuple[int, int]]]:
    """Yield each message's name with its size and time; hidden names are nobody's messages."""
    waiting = [""]
    while waiting:
        within = waiting.pop()
        try:
            with os.scandir(folder / within) as found:
                for each in found:
                    if each.name.startswith("."):
                        continue
                    if each.is_dir(follow_symlinks=False):
                        waiting.append(f"{within}{each.name}/")
                    elif each.name.endswith(SUFFIX) and each.is_file():
                        status = each.stat()
                        yield f"{within}{each.name}", (status.st_size, status.st_mtime_ns)
        except OSError as error:
            raise TransportError(f"expected a folder of messages, got: {error}") from error


def _line(entry: Entry) -> bytes:
    return json.dumps(entry._asdict(), separators=(",", ":")).encode() + b"\n"


def _parsed(line: bytes) -> Entry | None:
    try:
        values: Any = json.loads(line)
        entry = Entry(**{**values, "identities": tuple(values["identities"])})
    except (ValueError, TypeError, KeyError, RecursionError):
        return None  # the line that a killed writer was at, or no line of ours
    texts = [each for each in entry.identities if each is not None]
    if not all(isinstance(each, str) for each in (entry.name, *texts)):
        return None
    if type(entry.nbytes) is not int or type(entry.mtime_ns) is not int:
        return None
    # As a scan finds them: below the folder, nothing hidden, and a name that a file can have.
    parts = entry.name.split("/")
    if not entry.name.endswith(SUFFIX) or any(not part or part.startswith(".") for part in parts):
        return None
    try:
        return None if b"\0" in os.fsencode(entry.name) else entry
    except ValueError:
        return None
