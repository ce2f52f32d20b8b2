"""A rank of the demo: receives, decodes, reads every page, and reports what it has."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import zmq

from mmformat.arena import Arena, ArenaReader
from mmformat.bench.arms import make_arm
from mmformat.bench.pages import touch
from mmformat.bench.payloads import tensors_of
from mmformat.measure import clock_ns
from mmformat.model.tensors import tensor_buffer, tensor_spec

__all__ = ["fingerprints", "run_rank"]


def fingerprints(inputs: Any) -> list[dict[str, Any]]:
    """Return dtype, shape and SHA-256 of each tensor."""
    found = []
    for tensor in tensors_of(inputs):
        spec = tensor_spec(tensor)
        digest = hashlib.sha256(memoryview(tensor_buffer(tensor)))
        found.append({"dtype": spec.dtype, "shape": list(spec.shape), "sha256": digest.hexdigest()})
    return found


def run_rank(rank: int, announcements: str, reports: str) -> None:
    """Serve until the producer says ``end``.

    Each message has a word first: ``share`` and a handle, ``pickle`` and a pickle, then ``verify``
    and ``release`` for what the last of these brought.
    """
    with zmq.Context() as context:
        inbox = context.socket(zmq.PULL)
        outbox = context.socket(zmq.PUSH)
        outbox.setsockopt(zmq.LINGER, 1000)
        try:
            inbox.connect(announcements)
            outbox.connect(reports)
            _Rank(rank, inbox, outbox).serve()
        finally:
            inbox.close()
            outbox.close()


class _Rank:
    def __init__(self, rank: int, inbox: zmq.Socket[bytes], outbox: zmq.Socket[bytes]) -> None:
        self._rank = rank
        self._inbox = inbox
        self._outbox = outbox
        self._reader: ArenaReader | None = None
        self._arena = ""
        self._pickle = make_arm("pickle5")
        self._held: Any = None

    def serve(self) -> None:
        self._report("ready", pid=os.getpid())
        while True:
            word, *frames = self._inbox.recv_multipart()
            if word == b"end":
                break
            getattr(self, f"_{word.decode()}_message")(frames)
        self._held = None
        if self._reader is not None:
            self._reader.close()

    def _attach_message(self, frames: list[bytes]) -> None:
        self._arena = frames[0].decode()
        self._reader = Arena.attach(self._arena, rank=self._rank)
        self._report("attached")

    def _share_message(self, frames: list[bytes]) -> None:
        received_ns = clock_ns()
        if self._reader is None:
            raise RuntimeError("expected to be attached")
        self._held = self._reader.get(frames[0], library="torch")
        self._hold(received_ns, clock_ns())

    def _pickle_message(self, frames: list[bytes]) -> None:
        received_ns = clock_ns()
        self._held = self._pickle.decode(frames)
        self._hold(received_ns, clock_ns())

    def _hold(self, received_ns: int, decoded_ns: int) -> None:
        touch(self._held)
        self._report("held", received_ns=received_ns, decoded_ns=decoded_ns, touched_ns=clock_ns())

    def _verify_message(self, frames: list[bytes]) -> None:
        mapped = _ranges_of(self._arena)
        inside = [
            any(low <= tensor.data_ptr() and tensor.data_ptr() + tensor.nbytes <= high
                for low, high in mapped)
            for tensor in tensors_of(self._held)
        ]  # fmt: skip
        self._report("verified", tensors=fingerprints(self._held), inside=inside)

    def _release_message(self, frames: list[bytes]) -> None:
        self._held = None  # the last tensor releases the slot
        self._report("released")

    def _report(self, word: str, **values: Any) -> None:
        self._outbox.send_json({"word": word, "rank": self._rank, **values})


def _ranges_of(arena: str) -> list[tuple[int, int]]:
    """Return the addresses at which this process maps the arena, as the kernel tells them."""
    ranges = []
    for line in Path("/proc/self/maps").read_text().splitlines():
        if arena and arena in line:
            low, _, high = line.split()[0].partition("-")
            ranges.append((int(low, 16), int(high, 16)))
    return ranges
