"""What a conversion of many files has done, in a file that a killed run leaves readable."""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import threading
from pathlib import Path
from typing import Any, Final

from mmformat._files import written_whole
from mmformat.errors import TransportError
from mmformat.model.message import EncodedMessage

__all__ = ["JOURNAL", "Journal", "write_message"]

JOURNAL: Final = ".mmformat-convert.jsonl"
"""The name of the file in the destination; one line a source."""

_TOGETHER: Final = 256


def write_message(message: EncodedMessage, path: Path, *, replaces: bool) -> None:
    """Write a message under another name and rename it; it is synced when it is noted.

    Without ``replaces`` a file that is there stays; it is no error if it has the same bytes, as
    what a run wrote that was killed before it noted it.

    Raises
    ------
    TransportError
        When the file cannot be written; with the code ``file-exists`` when another is there.
    """
    if not replaces and path.exists():
        if path.is_file() and path.stat().st_size == message.nbytes:
            with path.open("rb") as there:
                if all(there.read(len(frame)) == frame for frame in map(bytes, message)):
                    return
        raise TransportError(
            f"{path} exists and was not made from this source",
            hint="--force, or force=True, replaces it",
            code="file-exists",
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TransportError(f"cannot write {path}: {error.strerror or error}") from error
    # One name for each target: what a killed run left is written over, not left to pile up.
    with written_whole(path, sync=False, partial=f".{path.name}.partial") as file:
        for frame in message:
            file.write(frame)


class Journal:
    """Remember what is done, a line a source, and keep a second run out of the destination.

    Parameters
    ----------
    folder : Path
        The destination; it is made when it is not there.
    dry_run : bool
        Read what is done, and write nothing.

    Raises
    ------
    TransportError
        When the folder cannot be written, or another run holds it.

    Examples
    --------
    >>> Journal(Path("/nothing"), dry_run=True).done({"source": "a.pkl"}, Path("/nothing"))
    """

    def __init__(self, folder: Path, *, dry_run: bool) -> None:
        self.path = folder / JOURNAL
        self._lock = threading.Lock()
        self._pending: list[str] = []
        self._done: dict[str, dict[str, Any]] = {}
        self._file: Any = None
        if dry_run:
            self._read()
            return
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("a", encoding="utf-8")
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._file.close()
            raise TransportError(f"expected no other run that writes to {folder}") from error
        except OSError as error:
            raise TransportError(f"expected to write to {folder}, got: {error}") from error
        self._read()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._file is not None:
            self._settle()
            self._file.close()

    def _read(self) -> None:
        if not self.path.exists():
            return
        text = self.path.read_text("utf-8", "replace")
        for line in text.splitlines():
            try:
                entry = json.loads(line)
                self._done[entry["key"]["source"]] = entry
            except (ValueError, TypeError, KeyError):
                continue  # the line that a killed run was writing
        if self._file is not None and text and not text.endswith("\n"):
            self._file.write("\n")

    def done(self, key: dict[str, Any], folder: Path) -> dict[str, Any] | None:
        """Return the entry of a source that is done and whose messages are in the folder."""
        entry = self._done.get(key["source"])
        if entry is None or entry["key"] != key:
            return None
        return entry if all((folder / name).exists() for name in entry["outputs"]) else None

    def outputs_of(self, source: Path) -> tuple[str, ...]:
        """Return the names of the messages that an earlier run made of a source."""
        entry = self._done.get(str(source.absolute()))
        return () if entry is None else tuple(entry["outputs"])

    def add(self, key: dict[str, Any], outputs: list[str]) -> None:
        """Note a source whose messages are all in their place.

        The line is written once the file system has the messages, together with those of others:
        a sync for each small file costs more than its conversion.
        """
        entry = {"key": key, "outputs": [Path(path).name for path in outputs]}
        with self._lock:
            self._pending.append(json.dumps(entry) + "\n")
            if len(self._pending) >= _TOGETHER:
                self._settle()

    def _settle(self) -> None:
        if not self._pending:
            return
        # Only the destination's file system where the call is to be had, else all of them.
        sync = getattr(ctypes.CDLL(None), "syncfs", None)
        if sync is None or sync(self._file.fileno()) != 0:
            os.sync()
        self._file.write("".join(self._pending))
        self._file.flush()
        self._pending.clear()
