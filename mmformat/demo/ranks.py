"""The demo's rank processes, and the producer's sockets to them."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import zmq

from mmformat.arena import Arena, ArenaReader
from mmformat.bench.crew import Crew
from mmformat.bench.measure import clock_ns
from mmformat.bench.methods import Pickle5Method
from mmformat.bench.payloads import tensors_of, touch
from mmformat.errors import TransportTimeoutError
from mmformat.model.tensors import tensor_buffer, tensor_spec

__all__ = [
    "Desk",
    "fingerprints",
    "run_rank",
]

_LOOK_MS: Final = 200
"""How often a wait looks after the ranks' lives."""


class Desk:
    """Speak with the ranks of a crew.

    Parameters
    ----------
    crew : Crew
        Whose folder has the sockets, and whose members are looked after while waiting.
    ranks : int
        How many there are.
    timeout_s : float
        The longest wait for any report.
    """

    def __init__(self, crew: Crew, *, ranks: int, timeout_s: float) -> None:
        self._crew = crew
        self._ranks = ranks
        self._timeout_s = timeout_s
        self._context = zmq.Context()
        self._reports = self._context.socket(zmq.PULL)
        self._reports.bind(crew.address("reports"))
        self._out = []
        for rank in range(ranks):
            socket = self._context.socket(zmq.PUSH)
            socket.setsockopt(zmq.LINGER, 0)
            socket.bind(crew.address(f"rank-{rank}"))
            self._out.append(socket)

    def announce(self, word: str, *frames: Any) -> None:
        """Send to every rank; the socket copies, which is pyzmq's default."""
        for socket in self._out:
            socket.send_multipart([word.encode(), *frames])

    def gather(self, word: str) -> list[dict[str, Any]]:
        """Return every rank's report, in the order of ranks.

        Raises
        ------
        TransportError
            When a rank died.
        TransportTimeoutError
            When a report did not come in time.
        """
        found: dict[int, dict[str, Any]] = {}
        deadline_s = time.monotonic() + self._timeout_s
        while len(found) < self._ranks:
            if self._reports.poll(_LOOK_MS):
                report = json.loads(self._reports.recv())
                if report["word"] == word:
                    found[report["rank"]] = report
                continue
            self._crew.check()
            if time.monotonic() > deadline_s:
                late = [str(rank) for rank in range(self._ranks) if rank not in found]
                raise TransportTimeoutError(
                    f"expected {word!r} from every rank within {self._timeout_s:g} s, got none "
                    f"from rank {', '.join(late)}",
                    hint="a busy machine may need more: --timeout SECONDS",
                )
        return [found[rank] for rank in range(self._ranks)]

    def ask(self, word: str, *frames: Any, answer: str) -> Sequence[dict[str, Any]]:
        """Announce, and gather the answers."""
        self.announce(word, *frames)
        return self.gather(answer)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for socket in (*self._out, self._reports):
            socket.close(linger=1000 if kind is None else 0)
        self._context.term()


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
        self._pickle = Pickle5Method()
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
