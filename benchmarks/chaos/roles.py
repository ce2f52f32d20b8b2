"""The processes of the chaos run: a producer and ranks, each at the end of a pipe."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import time
from collections import deque
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

import numpy as np

import mmformat as mm
from mmformat.shm import failpoints as steps

ARENA_NBYTES = 48 * 2**20
SLOTS = 64


def die_at(label: str, countdown: int) -> None:
    """Kill this process when it comes to a step of the protocol for the n-th time."""
    left = countdown

    def hook(step: str) -> None:
        nonlocal left
        if step == label:
            left -= 1
            if left <= 0:
                os.kill(os.getpid(), signal.SIGKILL)

    steps._hook = hook


def request(seed: int) -> tuple[mm.MultimodalInputs, list[str]]:
    """Make one request of mixed size from its number, and the digest of each of its tensors.

    Like a turn of a conversation it has a new item, and up to two of the requests before it.
    """
    items, digests = [], []
    for number in range(seed, seed - 1 - seed % 3, -1):
        rng = np.random.default_rng(number + 2)
        nbytes = int(10 ** rng.uniform(2, 6.6))  # 100 bytes to 4 MB
        feature = rng.integers(0, 256, nbytes, dtype=np.uint8)
        digest = hashlib.sha256(feature).hexdigest()
        items.append(mm.MultimodalDataItem(modality=mm.Modality.IMAGE, feature=feature))
        digests.append(digest)
    return mm.materialize(mm.MultimodalInputs(items=items)), digests


def producer(pipe: Connection, directory: Path, ranks: int) -> None:
    """Create an arena; then make, put and announce what is asked for, until the pipe closes."""
    with mm.Arena.create(
        nbytes=ARENA_NBYTES, ranks=ranks, slots=SLOTS, backing="file", directory=directory
    ) as arena:
        pipe.send(("name", arena.name))
        while True:
            try:
                verb, *arguments = pipe.recv()
            except EOFError:
                return
            if verb == "put":
                inputs, digests = request(arguments[0])
                started_s = time.perf_counter()
                try:
                    reuse: Literal["request", "items"] = "items" if arguments[0] % 4 else "request"
                    handle = arena.put(inputs, timeout_s=arguments[1], reuse=reuse)
                except mm.ArenaFullError as error:
                    pipe.send(("full", str(error)))
                    continue
                pipe.send(("put", bytes(handle), digests, time.perf_counter() - started_s))
            elif verb == "die":
                die_at(*arguments)
            elif verb == "stats":
                arena.reap()
                pipe.send(("stats", arena.stats()))


def rank(pipe: Connection, directory: Path, number: int, name: str, seed: int) -> None:
    """Attach; get, verify and hold what is announced for a while, until the pipe closes."""
    rng = random.Random(seed)
    held: deque[tuple[Any, list[str]]] = deque()
    plan = pipe.recv()
    if plan is not None:
        die_at(*plan)
    try:
        reader = mm.Arena.attach(name, rank=number, directory=directory)
    except mm.TransportError as error:
        pipe.send(("refused", error.code))
        return
    pipe.send(("attached",))
    while True:
        try:
            request_number, raw, digests = pipe.recv()
        except EOFError:
            break
        try:
            held.append((reader.get(raw, library="numpy"), digests))
        except mm.StaleHandleError:
            pipe.send(("stale", request_number))
            continue
        pipe.send(("right" if _is_right(*held[-1]) else "wrong", request_number))
        for _ in range(len(held) - rng.randrange(4)):
            # Looked at again just before it goes: it must not have changed meanwhile.
            if not _is_right(*held.popleft()):
                pipe.send(("wrong", request_number))
    held.clear()
    reader.close()


def _is_right(inputs: mm.MultimodalInputs, digests: list[str]) -> bool:
    return [hashlib.sha256(item.feature).hexdigest() for item in inputs.items] == digests
