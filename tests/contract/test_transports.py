"""The contract suites on every transport: memory, shared memory, file, memfd, ZeroMQ."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from typing import Any

import zmq

from mmformat.adapters.zmq import recv, send
from mmformat.model import EncodedMessage
from mmformat.shm import ShmArena, ShmReader
from tests.contract.channels import RANKS, ArenaContract, ChannelContract
from tests.support.memory import MemoryArena, MemoryReader


class TestMemoryArena(ArenaContract):
    def create(self, **options: Any) -> Any:
        return MemoryArena.create(ranks=RANKS, name="mmf-contract", **options)

    def attach(self, arena: Any, rank: int) -> Any:
        return MemoryReader.attach(arena.name, rank=rank)


class TestShmArena(ArenaContract):
    def create(self, **options: Any) -> Any:
        return ShmArena.create(ranks=RANKS, **options)

    def attach(self, arena: Any, rank: int) -> Any:
        return ShmReader.attach(arena.name, rank=rank)


class TestFileArena(ArenaContract):
    def create(self, **options: Any) -> Any:
        return ShmArena.create(
            ranks=RANKS, backing="file", directory=tempfile.gettempdir(), **options
        )

    def attach(self, arena: Any, rank: int) -> Any:
        return ShmReader.attach(arena.name, rank=rank, directory=tempfile.gettempdir())


class TestMemfdArena(ArenaContract):
    def create(self, **options: Any) -> Any:
        return ShmArena.create(ranks=RANKS, backing="memfd", **options)

    def attach(self, arena: Any, rank: int) -> Any:
        return ShmReader.attach_fd(arena.fileno(), rank=rank)


class ArenaChannel(ChannelContract):
    create: Any
    attach: Any

    def exchange(self, messages: Sequence[bytes]) -> list[list[Any]]:
        arena = self.create(ranks=RANKS, nbytes=2**23)
        ranks = [self.attach(arena.name, rank=rank) for rank in range(RANKS)]
        handles = []
        for message in messages:
            slot = arena.reserve(len(message))
            slot.view[:] = message
            handles.append(slot.seal())
        received = [[rank.map(handle) for handle in handles] for rank in ranks]
        for rank in ranks:
            rank.close()
        arena.close()
        return received


class TestMemoryChannel(ArenaChannel):
    def create(self, **options: Any) -> Any:
        return MemoryArena.create(name="mmf-contract", **options)

    attach = MemoryReader.attach


class TestShmChannel(ArenaChannel):
    create = ShmArena.create
    attach = ShmReader.attach


class ZmqChannel(ChannelContract):
    sends: int
    receives: int

    def exchange(self, messages: Sequence[bytes]) -> list[list[Any]]:
        with tempfile.TemporaryDirectory() as directory, zmq.Context() as context:
            context.linger = 0
            received: list[list[Any]] = []
            senders, receivers = [], []
            for rank in range(RANKS):
                if self.sends != zmq.XPUB or not senders:
                    senders.append(context.socket(self.sends))
                    if self.sends == zmq.XPUB:
                        senders[0].setsockopt(zmq.XPUB_VERBOSE, 1)  # report each subscriber
                    address = f"ipc://{directory}/{rank}"
                    senders[-1].bind(address)
                receivers.append(context.socket(self.receives))
                if self.receives == zmq.SUB:
                    receivers[-1].subscribe(b"")
                receivers[-1].connect(address)
            if self.sends == zmq.XPUB:
                for _ in range(RANKS):
                    assert senders[0].recv() == b"\x01"  # a subscription has arrived
            for message in messages:
                half = len(message) // 2
                frames = [memoryview(message)[:half], memoryview(message)[half:]]
                for sender in senders:
                    send(sender, EncodedMessage(frames), timeout_s=10)
            for receiver in receivers:
                payloads = [recv(receiver, timeout_s=10).payload for _ in messages]
                received.append([bytes(payload) for payload in payloads])
            for socket in (*senders, *receivers):
                socket.close()
            return received


class TestPushPull(ZmqChannel):
    sends, receives = zmq.PUSH, zmq.PULL


class TestPubSub(ZmqChannel):
    sends, receives = zmq.XPUB, zmq.SUB


class TestPairs(ZmqChannel):
    sends, receives = zmq.DEALER, zmq.DEALER
