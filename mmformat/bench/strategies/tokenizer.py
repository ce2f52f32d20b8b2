"""The tokenizer: takes requests, materializes where the way says so, and sends them to rank 0."""

from __future__ import annotations

import json
import pickle
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any, cast

import zmq

import mmformat as mm
from mmformat.bench.crew import Crew
from mmformat.bench.strategies.traffic import materialized
from mmformat.bench.strategies.ways import Way
from mmformat.bench.strategies.wire import Packer
from mmformat.errors import TransportTimeoutError
from mmformat.measure import clock_ns

__all__ = ["Answered", "Tokenizer"]

ANSWER_S = 120


@dataclass(slots=True)
class Answered:
    """Hold what came back for the requests of one phase.

    Attributes
    ----------
    started_ns : int
        When the phase began; all of its requests were there.
    sent_ns, ready_ns : dict of int to int
        By request: when it was taken up, and when the last rank had its tensors.
    digests : dict of int to set of str
        By request: what the ranks' tensors hashed to.
    """

    started_ns: int
    sent_ns: dict[int, int] = field(default_factory=dict)
    ready_ns: dict[int, int] = field(default_factory=dict)
    digests: dict[int, set[str]] = field(default_factory=dict)
    waiting: dict[int, int] = field(default_factory=dict)


class Tokenizer:
    """Run one way's producer side.

    Attributes
    ----------
    materializations, sent_nbytes : int
        Counted here so far.
    rank_counts : dict of int to dict
        The latest counters of each rank.
    """

    def __init__(
        self, way: Way, *, ranks: int, crew: Crew, arena: mm.Arena | None, workers: int
    ) -> None:
        self._way = way
        self._ranks = ranks
        self._crew = crew
        self._packer = Packer(way, arena)
        self._pool = ThreadPoolExecutor(workers) if way.materialize == "pool" else None
        self._known: dict[str, mm.MultimodalInputs] = {}
        self._context = zmq.Context()
        self._answers = self._context.socket(zmq.PULL)
        self._answers.bind(crew.address("answers"))
        self._requests = self._context.socket(zmq.PUSH)
        self._requests.connect(crew.address("requests"))
        self._number = 0
        self.materializations = 0
        self.sent_nbytes = 0
        self.rank_counts: dict[int, dict[str, int]] = {}

    @property
    def written_nbytes(self) -> int:
        """Bytes written to shared memory so far."""
        return self._packer.written_nbytes

    def wait_ready(self) -> None:
        """Wait until every rank has said that it listens."""
        for _ in range(self._ranks):
            self._answer()

    def serve(self, requests: Sequence[Sequence[str]], *, digest: bool = False) -> Answered:
        """Send all requests at once and wait until every rank is ready with every one."""
        phase = Answered(clock_ns())
        pending: dict[Future[bytes | mm.MultimodalInputs], int] = {}
        for images in requests:
            number = self._number = self._number + 1
            phase.sent_ns[number] = clock_ns()
            phase.waiting[number] = self._ranks
            if self._pool is not None:
                pending[self._pool.submit(self._prepare, images)] = number
                continue
            if self._way.materialize == "tokenizer":
                body = self._packer.pack(number, self._materialize(images))
            else:
                body = pickle.dumps(list(images), protocol=5)
            self._send(number, body, digest=digest)
            self._collect(phase, wait_for_one=False)
        while pending:
            done, _ = wait(pending, timeout=0.001, return_when=FIRST_COMPLETED)
            for future in done:
                number, made = pending.pop(future), future.result()
                body = made if isinstance(made, bytes) else self._packer.pack(number, made)
                self._send(number, body, digest=digest)
            self._collect(phase, wait_for_one=False)
        while phase.waiting:
            self._collect(phase, wait_for_one=True)
        return phase

    def _prepare(self, images: Sequence[str]) -> bytes | mm.MultimodalInputs:
        """Materialize in a thread of the pool; in the slot itself, where the way does that."""
        if not self._way.in_place:
            return self._materialize(images)
        self.materializations += 1
        return self._packer.materialize(images)

    def _materialize(self, images: Sequence[str]) -> mm.MultimodalInputs:
        key = "".join(images) if self._way.repeated else ""
        known = self._known.get(key)
        if known is not None:
            return known
        self.materializations += 1
        inputs = materialized(images, dictionary=self._way.dictionary)
        if self._way.repeated:
            self._known[key] = inputs
        return inputs

    def _send(self, number: int, body: bytes, *, digest: bool) -> None:
        header = json.dumps({"number": number, "digest": digest}).encode()
        self.sent_nbytes += len(body)
        self._requests.send_multipart([header, body])

    def _collect(self, phase: Answered, *, wait_for_one: bool) -> None:
        while wait_for_one or self._answers.poll(0):
            wait_for_one = False
            answer = self._answer()
            number = answer["number"]
            phase.ready_ns[number] = max(phase.ready_ns.get(number, 0), answer["ready_ns"])
            if "digest" in answer:
                phase.digests.setdefault(number, set()).add(answer["digest"])
            self.rank_counts[answer["rank"]] = answer
            phase.waiting[number] -= 1
            if not phase.waiting[number]:
                del phase.waiting[number]
                self._packer.done(number)

    def _answer(self) -> dict[str, Any]:
        deadline_s = time.monotonic() + ANSWER_S
        while not self._answers.poll(1000):
            self._crew.check()
            if time.monotonic() > deadline_s:
                raise TransportTimeoutError(
                    f"expected an answer of the ranks within {ANSWER_S} s, got none",
                    hint="run again with fewer ranks or a smaller payload",
                )
        return cast(dict[str, Any], self._answers.recv_json())

    def close(self) -> None:
        """Stop the ranks and let everything go."""
        self._requests.send_multipart([b"stop", b""])
        if self._pool is not None:
            self._pool.shutdown()
        self._packer.close()
        self._context.destroy(linger=2000)
