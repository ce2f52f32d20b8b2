"""What a crew's processes do in the tests; they are spawned, so it must be importable."""

from __future__ import annotations

import os
import signal
import time
from multiprocessing.connection import Connection


def wait(pipe: Connection) -> None:
    pipe.send(os.getpid())
    time.sleep(600)


def fail(pipe: Connection) -> None:
    pipe.send(os.getpid())
    raise ValueError("cannot go on")


def vanish(pipe: Connection) -> None:
    pipe.send(os.getpid())
    os.kill(os.getpid(), signal.SIGKILL)


def ignore_signals(pipe: Connection) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    pipe.send(os.getpid())
    time.sleep(600)


def obey(pipe: Connection) -> None:
    pipe.send(os.getpid())
    pipe.recv()
