"""Ranks and producers in processes of their own, for tests; they do as told over a pipe."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import torch
from blake3 import blake3

import mmformat as mm
from mmformat.arena.device_arena import DeviceArenaReader
from mmformat.bench.payloads import tensors_of
from mmformat.cuda.device_pool import DevicePool, DevicePoolReader
from mmformat.cuda.ipc import CudaPoolReader
from tests.gpu.inputs import make_inputs

SPAWN = multiprocessing.get_context("spawn")


class Child:
    """One process; every call is one order and one answer."""

    def __init__(self, target: Callable[..., None], *arguments: object) -> None:
        self.pipe, theirs = SPAWN.Pipe()
        self.process = SPAWN.Process(target=target, args=(theirs, *arguments), daemon=True)
        self.process.start()
        theirs.close()

    def ask(self, order: object = None) -> Any:
        self.pipe.send(order)
        return self.answer()

    def answer(self) -> Any:
        if not self.pipe.poll(90):
            raise AssertionError("no answer")
        return self.pipe.recv()

    def kill(self) -> None:
        self.process.kill()
        self.process.join(30)

    def end(self) -> None:
        self.pipe.close()
        self.process.join(30)
        if self.process.is_alive():
            self.kill()


def digest(inputs: Any) -> str:
    """Return one hash of every tensor's bytes, dtype and shape."""
    made = blake3()
    for tensor in tensors_of(inputs):
        plain = torch.from_numpy(tensor.copy()) if isinstance(tensor, np.ndarray) else tensor
        made.update(f"{plain.dtype}{tuple(plain.shape)}".encode())
        made.update(plain.contiguous().reshape(-1).view(torch.uint8).cpu().numpy().tobytes())
    return made.hexdigest()


def _serve(pipe: Connection, reader: Any, device: str) -> None:
    pipe.send("attached")
    with reader:
        while True:
            try:
                handle = pipe.recv()
            except EOFError:
                return
            try:
                found = reader.get(handle)
                places = {str(tensor.device) for tensor in tensors_of(found)}
                pipe.send((digest(found), places == {device}))
            except mm.MMFormatError as error:
                pipe.send((error.code, str(error)))


def arena_rank(pipe: Connection, name: str, number: int, device: str) -> None:
    _serve(pipe, mm.Arena.attach(name, rank=number, device=device), device)


def pool_rank(pipe: Connection, name: str, number: int, device: str) -> None:
    _serve(pipe, DevicePoolReader(name, rank=number, device=device), device)


def either_rank(pipe: Connection, name: str, number: int, device: str, reaches: bool) -> None:
    """Serve as a rank of a device arena; if told so, as one whose device reaches no other."""
    if not reaches:

        def refuse(*_: object) -> None:
            raise mm.TransportError("expected to reach the pool, got: no", code="peer-access")

        CudaPoolReader.reach = refuse
    _serve(pipe, DeviceArenaReader(name, rank=number, device=device), device)


def pool_producer(pipe: Connection, readers: int) -> None:
    """Announce a pool's name, and a handle at each order."""
    with DevicePool(nbytes=2**27, ranks=readers, device="cuda:0") as pool:
        pipe.send(pool.name)
        while True:
            try:
                pipe.recv()
            except EOFError:
                return
            pipe.send(bytes(pool.put(make_inputs(rows=200), timeout_s=10)))
