"""Processes for the arena's tests: they do as told over a pipe, and die at a labelled step."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from mmformat.errors import MMFormatError
from mmformat.shm import Handle, ShmArena, ShmReader
from mmformat.shm import failpoints as steps

SPAWN = multiprocessing.get_context("spawn")


class DeadError(Exception):
    """The process is gone."""


class Role:
    """Run one role in a process of its own; every call is one order and one answer."""

    def __init__(self, target: Callable[..., None], *arguments: object) -> None:
        self.pipe, theirs = SPAWN.Pipe()
        self.process = SPAWN.Process(target=target, args=(theirs, *arguments), daemon=True)
        self.process.start()
        theirs.close()

    def ask(self, *order: object) -> Any:
        """Give an order and return its answer, or raise DeadError."""
        try:
            self.pipe.send(order)
            if not self.pipe.poll(60):
                raise AssertionError(f"no answer to {order}")
            answer = self.pipe.recv()
        except (EOFError, BrokenPipeError, ConnectionResetError) as error:
            self.process.join(30)
            raise DeadError(self.process.exitcode) from error
        return answer

    def kill(self) -> None:
        """SIGKILL, and wait until the kernel is done with it."""
        self.process.kill()
        self.process.join(30)

    def end(self) -> None:
        """Close the pipe; the process ends by itself, or is killed."""
        self.pipe.close()
        self.process.join(10)
        if self.process.is_alive():
            self.kill()


def _die_at(label: str | None) -> None:
    def hook(step: str) -> None:
        if step == label:
            os.kill(os.getpid(), signal.SIGKILL)

    steps._hook = hook if label else None


def _serve(pipe: Connection, verbs: dict[str, Callable[..., object]]) -> None:
    verbs["die_at"] = _die_at
    while True:
        try:
            verb, *arguments = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send(("ok", verbs[verb](*arguments)))
        except MMFormatError as error:
            pipe.send((error.code, str(error)))


def producer(pipe: Connection, directory: Path) -> None:
    """Create, put, find, reap, close."""
    arenas: list[ShmArena] = []

    def create(nbytes: int, readers: int) -> str:
        arenas.append(
            ShmArena.create(
                nbytes=nbytes, ranks=readers, slots=64, backing="file", directory=directory
            )
        )
        return arenas[-1].name

    def put(content: bytes, identity: bytes = b"", timeout_s: float = 10.0) -> bytes:
        slot = arenas[-1].reserve(len(content), timeout_s=timeout_s)
        half = len(content) // 2
        slot.view[:half] = content[:half]
        steps.step("write.half")
        slot.view[half:] = content[half:]
        return bytes(slot.seal(identity=identity))

    def stats() -> tuple[int, int, int, int]:
        arenas[-1].reap()
        found = arenas[-1].stats()
        return found.slots_granted, found.readers_attached, found.reclaimed, found.free_nbytes

    def reap() -> int:
        return arenas[-1].reap()

    verbs = {
        "create": create,
        "put": put,
        "stats": stats,
        "reap": reap,
        "close": lambda: arenas.pop().close(),
        "pid": os.getpid,
    }
    _serve(pipe, verbs)


def rank(pipe: Connection, directory: Path) -> None:
    """Attach, get and hold, drop, release, close."""
    readers: list[ShmReader] = []
    held: list[object] = []

    def attach(name: str, reader: int) -> None:
        readers.append(ShmReader.attach(name, rank=reader, directory=directory))

    def get(raw: bytes) -> bytes:
        held.append(readers[-1].map(Handle.from_bytes(raw)))
        return bytes(held[-1])

    def drop() -> None:
        held.clear()

    verbs = {
        "attach": attach,
        "get": get,
        "look": lambda index: bytes(held[index]),
        "drop": drop,
        "release": lambda raw: readers[-1].release(Handle.from_bytes(raw)),
        "producer_alive": lambda: readers[-1].producer_alive,
        "close": lambda: readers.pop().close(),
        "pid": os.getpid,
    }
    _serve(pipe, verbs)
