"""The tokenizer's side: materialization, its pool, and how requests travel to the ranks."""

from __future__ import annotations

import json
import pickle
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any, cast

import torch
import zmq

import mmformat as mm
from benchmarks.baselines.segment_per_tensor import SegmentPerTensorMethod
from benchmarks.strategies.traffic import feature_nbytes, lazy, materialized, processor_of
from benchmarks.strategies.ways import Way
from mmformat.bench.crew import Crew
from mmformat.bench.measure import clock_ns
from mmformat.bench.methods import inputs_of, plain_of
from mmformat.bench.payloads import touch
from mmformat.errors import TransportTimeoutError

__all__ = [
    "Answered",
    "Packer",
    "Tokenizer",
    "Unpacker",
]


class Packer:
    """Make the bytes that travel, in the process that materialized.

    Attributes
    ----------
    written_nbytes : int
        Bytes written to shared memory so far.
    """

    def __init__(self, way: Way, arena: mm.Arena | None) -> None:
        self._way = way
        self._arena = arena
        self._segments: dict[int, SegmentPerTensorMethod] = {}
        self.written_nbytes = 0

    def pack(self, number: int, inputs: mm.MultimodalInputs) -> bytes:
        """Return what the ranks are sent for a materialized request."""
        if self._way.carrier == "arena" and self._arena is not None:
            saved = self._arena.stats().bytes_saved
            handle = self._arena.put(inputs, compression=self._way.compression, timeout_s=60)
            if self._arena.stats().bytes_saved == saved:
                self.written_nbytes += handle.nbytes
            return bytes(handle)
        if self._way.carrier == "segment":
            method = self._segments[number] = SegmentPerTensorMethod()
            self.written_nbytes += feature_nbytes(inputs)
            return bytes(method.encode(as_torch(inputs))[0])
        return pickle.dumps(plain_of(as_torch(inputs)), protocol=5)

    def materialize(self, images: Sequence[str]) -> bytes:
        """Return a handle of images that are processed in the slot itself."""
        if self._arena is None:
            raise RuntimeError("expected a way with an arena")
        inputs, processor = lazy(images), processor_of(dictionary=self._way.dictionary)
        handle, _ = self._arena.materialize(inputs, processor, timeout_s=60)
        self.written_nbytes += handle.nbytes
        return bytes(handle)

    def done(self, number: int) -> None:
        """Take back what a request used, when every rank is ready with it."""
        method = self._segments.pop(number, None)
        if method is not None:
            method.reclaim()

    def close(self) -> None:
        """Take back everything."""
        for number in list(self._segments):
            self.done(number)


class Unpacker:
    """Make tensors of what arrived, in a rank, where the rank wants them.

    On the host, a dictionary tensor stays codes and table: expanding belongs on the device.
    """

    def __init__(self, way: Way, reader: mm.ArenaReader | None, device: torch.device) -> None:
        self._way = way
        self._reader = reader
        self._device = device

    def unpack(self, body: bytes | memoryview) -> mm.MultimodalInputs:
        """Return the materialized inputs."""
        if self._reader is not None and self._device.type == "cpu":
            return self._reader.get(bytes(body), library="torch", expand=False)
        if self._reader is not None:
            return self._reader.get(bytes(body), device=str(self._device))
        if self._way.carrier == "segment":
            inputs: mm.MultimodalInputs = SegmentPerTensorMethod().decode([body])
            return self.place(inputs)
        return self.place(inputs_of(pickle.loads(body)))

    def place(self, inputs: mm.MultimodalInputs) -> mm.MultimodalInputs:
        """Copy the features to the device, as an engine does with pageable memory."""
        if self._device.type != "cpu":
            for item in inputs.items:
                item.feature = cast(torch.Tensor, item.feature).to(self._device)
        return inputs

    def wait_until_there(self, inputs: mm.MultimodalInputs) -> None:
        """Wait for the device, or read a byte of every page."""
        if self._device.type == "cpu":
            touch(inputs)
        else:
            torch.cuda.synchronize(self._device)


def as_torch(inputs: mm.MultimodalInputs) -> mm.MultimodalInputs:
    """Return the inputs with torch features over the same bytes, as engines carry them."""
    items = [
        mm.MultimodalDataItem(
            modality=item.modality,
            feature=torch.from_numpy(cast(Any, item.feature)),
            offsets=item.offsets,
            model_specific_data=item.model_specific_data,
            hash=item.hash,
            pad_value=item.pad_value,
        )
        for item in inputs.items
    ]
    return mm.MultimodalInputs(items=items, request_data=inputs.request_data)


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
