"""A rank with a scheduler's loop, and the process that asks every rank whether it still answers."""

from __future__ import annotations

import hashlib
import json
import pickle
import time
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection
from typing import Any, Final, Literal

import numpy as np
import torch
import torch.distributed as dist
import zmq

import mmformat as mm
from benchmarks.strategies.tokenizer import Packer, Unpacker, as_torch
from benchmarks.strategies.traffic import materialized
from benchmarks.strategies.ways import Way
from mmformat.bench.measure import clock_ns

__all__ = [
    "PATIENCE_S",
    "Device",
    "RankSettings",
    "digest_of",
    "monitor",
    "run_rank",
]

Device = Literal["cpu", "cuda"]

IDLE_S: Final = 0.001
NOTHING, REQUEST, STOP = range(3)


@dataclass(frozen=True, slots=True, kw_only=True)
class RankSettings:
    """Say where a rank meets the others."""

    rank: int
    ranks: int
    way: Way
    folder: str
    arena: str | None
    device: Device

    def address(self, name: str) -> str:
        """Return a socket's address in the run's private folder."""
        return f"ipc://{self.folder}/{name}"


def run_rank(settings: RankSettings) -> None:
    """Serve until told to stop."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{settings.folder}/group",
        rank=settings.rank,
        world_size=settings.ranks,
        timeout=timedelta(seconds=300),
    )
    device = torch.device("cpu")
    if settings.device == "cuda":
        device = torch.device("cuda", settings.rank % torch.cuda.device_count())
        torch.cuda.set_device(device)
        torch.zeros(1, device=device)  # the context, before anything is measured
    reader = None
    if settings.arena is not None:
        reader = mm.Arena.attach(
            settings.arena,
            rank=settings.rank,
            device=None if settings.device == "cpu" else str(device),
        )
    loop = _Loop(settings, Unpacker(settings.way, reader, device))
    try:
        loop.run()
    finally:
        loop.close()
        if reader is not None:
            reader.close()
        dist.destroy_process_group()


class _Loop:
    """The scheduler's loop: whatever takes long in it keeps the heartbeat waiting."""

    def __init__(self, settings: RankSettings, unpacker: Unpacker) -> None:
        self.settings = settings
        self.way = settings.way
        self.context = zmq.Context()
        self.heartbeat = self.context.socket(zmq.ROUTER)
        self.heartbeat.bind(settings.address(f"heartbeat-{settings.rank}"))
        self.answers = self.context.socket(zmq.PUSH)
        self.answers.connect(settings.address("answers"))
        self.requests: Any = None
        if settings.rank == 0:
            self.requests = self.context.socket(zmq.PULL)
            self.requests.bind(settings.address("requests"))
        self.packer = Packer(self.way, None)
        self.unpacker = unpacker
        self.pending: list[tuple[Any, torch.Tensor, dict[str, Any]]] = []
        self.materializations = 0
        self.broadcast_nbytes = 0
        self.answers.send_json({"rank": settings.rank, "event": "ready"})

    def close(self) -> None:
        self.context.destroy(linger=1000)

    def run(self) -> None:
        while True:
            while self.heartbeat.poll(0):
                self.heartbeat.send_multipart(self.heartbeat.recv_multipart())
            operation, header, body = self._take()
            if operation == STOP:
                self._finish_overlapped(wait=True)
                return
            self._finish_overlapped(wait=False)
            if operation == REQUEST:
                self._serve(header, body)

    def _take(self) -> tuple[int, dict[str, Any], Any]:
        """Return what rank 0 got, at every rank: as engines do, in step, at every turn."""
        operation, header, body = NOTHING, b"", b""
        if self.settings.rank == 0:
            if self.requests.poll(0):
                header, body = self.requests.recv_multipart()
                operation = STOP if header == b"stop" else REQUEST
                if operation == REQUEST and self.way.materialize == "rank 0":
                    body = self._materialize_for_all(body)
            elif not self.pending:
                time.sleep(IDLE_S)
        control = torch.tensor([operation, len(header), len(body)], dtype=torch.int64)
        dist.broadcast(control, 0)
        operation, header_nbytes, body_nbytes = control.tolist()
        if operation != REQUEST:
            return operation, {}, None
        head = self._broadcast(header, header_nbytes)
        values = json.loads(head.numpy().tobytes())
        if self.way.overlap:
            buffer = _tensor_of(body, body_nbytes)
            self.pending.append((dist.broadcast(buffer, 0, async_op=True), buffer, values))
            self._count(body_nbytes)
            return NOTHING, {}, None
        return operation, values, self._broadcast(body, body_nbytes).numpy().data

    def _broadcast(self, data: bytes, nbytes: int) -> torch.Tensor:
        buffer = _tensor_of(data, nbytes)
        dist.broadcast(buffer, 0)
        self._count(nbytes)
        return buffer

    def _count(self, nbytes: int) -> None:
        if self.settings.rank == 0:
            self.broadcast_nbytes += nbytes * (self.settings.ranks - 1)

    def _materialize_for_all(self, body: bytes) -> bytes:
        self.materializations += 1
        return self.packer.pack(0, materialized(pickle.loads(body)))

    def _finish_overlapped(self, *, wait: bool) -> None:
        while self.pending:
            work, buffer, values = self.pending[0]
            if not wait and not work.is_completed():
                return
            work.wait()
            self.pending.pop(0)
            self._serve(values, buffer.numpy().data)

    def _serve(self, header: dict[str, Any], body: Any) -> None:
        if self.way.materialize == "every rank":
            self.materializations += 1
            inputs = self.unpacker.place(as_torch(materialized(pickle.loads(body))))
        else:
            inputs = self.unpacker.unpack(body)
        self.unpacker.wait_until_there(inputs)
        answer = {
            "rank": self.settings.rank,
            "number": header["number"],
            "ready_ns": clock_ns(),
            "materializations": self.materializations,
            "broadcast_nbytes": self.broadcast_nbytes,
        }
        if header.get("digest"):
            answer["digest"] = digest_of(inputs)
        self.answers.send_json(answer)


def digest_of(inputs: mm.MultimodalInputs) -> str:
    """Return a digest of every feature's values, dictionaries expanded."""
    digest = hashlib.sha256()
    for item in inputs.items:
        feature: Any = item.feature
        if isinstance(feature, mm.DictionaryTensor):
            feature = feature.expand()
        if isinstance(feature, torch.Tensor):
            feature = feature.cpu()
        digest.update(np.ascontiguousarray(feature).data)
    return digest.hexdigest()


def _tensor_of(data: bytes, nbytes: int) -> torch.Tensor:
    if data:
        return torch.frombuffer(bytearray(data), dtype=torch.uint8)
    return torch.empty(nbytes, dtype=torch.uint8)


INTERVAL_S: Final = 0.002
PATIENCE_S: Final = 0.010
"""An answer later than this means that the loop was blocked."""


def monitor(addresses: list[str], control: Connection) -> None:
    """Ping the ranks until told to stop, and report each time that one was silent too long.

    Parameters
    ----------
    addresses : list of str
        Where each rank's heartbeat socket listens.
    control : Connection
        ``"start"`` begins a phase, ``"stop"`` ends it and asks for the silences of each rank in
        seconds, ``"quit"`` ends the process.
    """
    context = zmq.Context()
    sockets = []
    for address in addresses:
        socket = context.socket(zmq.DEALER)
        socket.linger = 0
        socket.connect(address)
        sockets.append(socket)
    asked: list[float | None] = [None] * len(sockets)
    silences: list[list[float]] = [[] for _ in sockets]
    counting = False
    control.send("ready")
    while True:
        if control.poll():
            word = control.recv()
            if word == "quit":
                break
            if word == "stop":
                # Who has not answered yet was silent until now.
                now_s = time.monotonic()
                waiting = [
                    [now_s - since] if since is not None and now_s - since > PATIENCE_S else []
                    for since in asked
                ]
                control.send([a + b for a, b in zip(silences, waiting, strict=True)])
            counting = word == "start"
            silences = [[] for _ in sockets]
        for number, socket in enumerate(sockets):
            since = asked[number]
            if since is None:
                socket.send(b"?")
                asked[number] = time.monotonic()
            elif socket.poll(0):
                socket.recv()
                silence_s = time.monotonic() - since
                asked[number] = None
                if counting and silence_s > PATIENCE_S:
                    silences[number].append(silence_s)
        time.sleep(INTERVAL_S)
    context.destroy(linger=0)
