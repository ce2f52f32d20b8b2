"""Processes that work together: spawned, watched, and ended to the last one."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import shutil
import signal
import tempfile
import threading
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Final, NoReturn, Self

from mmformat.errors import TransportError

__all__ = ["Crew"]

_PR_SET_PDEATHSIG: Final = 1
_PATIENCE_S: Final = 2.0


class Crew:
    """Start processes and end all of them, whatever happens.

    A context manager; it owns a folder that only this user can enter, for the processes' sockets.

    Notes
    -----
    A member that raises or dies is found by :meth:`check`. When the starting process itself is
    killed, the kernel ends the members. Ctrl-C reaches the starting process alone.
    """

    def __init__(self) -> None:
        self._context = multiprocessing.get_context("spawn")
        self._members: list[tuple[Any, Connection]] = []
        self._folder: Path | None = None
        self._on_terminate: Any = None

    @property
    def pids(self) -> list[int]:
        """The members' process numbers."""
        return [process.pid for process, _ in self._members]

    @property
    def folder(self) -> Path:
        """The private folder, which goes with the crew."""
        if self._folder is None:
            raise RuntimeError("expected to be inside the context")
        return self._folder

    def address(self, name: str) -> str:
        """Return the ZeroMQ address of a socket in the private folder."""
        return f"ipc://{self.folder}/{name}"

    def start(self, name: str, target: Callable[..., None], *arguments: Any) -> None:
        """Start ``target(*arguments)`` in a fresh process."""
        ours, theirs = self._context.Pipe(duplex=False)
        process = self._context.Process(
            target=_run, args=(target, arguments, theirs, os.getpid()), name=name, daemon=True
        )
        # Blocked signals stay blocked across exec: a terminal's Ctrl-C goes to every process of
        # the group, and only one of them should answer.
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        theirs.close()
        self._members.append((process, ours))

    def pipe(self) -> tuple[Connection, Connection]:
        """Return the two ends of a pipe, one to keep and one to hand to :meth:`start`."""
        return self._context.Pipe()

    def check(self) -> None:
        """Raise when a member has ended before its time.

        Raises
        ------
        TransportError
            With code ``rank-died``, and what it said.
        """
        for process, said in self._members:
            if process.exitcode is None:
                continue
            reason = f"exit status {process.exitcode}"
            if process.exitcode < 0:
                reason = f"death by {signal.Signals(-process.exitcode).name}"
            text = None
            try:
                if said.poll():
                    reason, text = said.recv()
            except (EOFError, OSError):
                pass
            raise TransportError(
                f"expected {process.name} to go on, got {reason}", code="rank-died", hint=text
            )

    def __enter__(self) -> Self:
        self._folder = Path(tempfile.mkdtemp(prefix="mmformat-"))  # of mode 0700
        if threading.current_thread() is threading.main_thread():
            self._on_terminate = signal.signal(signal.SIGTERM, _interrupt)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._on_terminate is not None:
            signal.signal(signal.SIGTERM, self._on_terminate)
        for process, _ in self._members:
            if kind is None:
                process.join(_PATIENCE_S)
            process.terminate()
        for process, said in self._members:
            process.join(_PATIENCE_S)
            if process.exitcode is None:
                process.kill()  # stopped, or deaf
                process.join()
            process.close()
            said.close()
        self._members.clear()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


def _run(
    target: Callable[..., None], arguments: tuple[Any, ...], says: Connection, parent: int
) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the kernel was told
        os._exit(1)
    # A signal handler inherited from the starter would unwind; the default one ends.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        target(*arguments)
    except Exception as error:
        says.send((f"{type(error).__name__}: {error}", traceback.format_exc(limit=-3)))
        os._exit(1)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt
