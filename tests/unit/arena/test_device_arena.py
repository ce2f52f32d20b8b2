"""One way for inputs on a device, also where devices cannot reach each other or there is none."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch

import mmformat as mm
from mmformat.arena import device_arena
from mmformat.arena.device_arena import DeviceArena, DeviceArenaReader
from mmformat.cuda import device_parts, device_pool
from mmformat.shm import Handle
from tests.gpu.inputs import make_inputs


class FakePool:
    """A pool of the producer's whose memory no rank can open; this machine has no device."""

    puts = 0

    def __init__(self, **_: object) -> None:
        self.name, self.ipc = "mmf-no-such-pool", b"\x01\xff"
        self.readers_attached = 0
        self.closed = False

    def put(self, inputs: mm.MultimodalInputs, *, timeout_s: float) -> Handle:
        FakePool.puts += 1
        return Handle(
            name=self.name,
            segment_id=bytes(16),
            slot=0,
            generation=1,
            offset=4096,
            nbytes=10,
            holders=1,
        )

    def stats(self) -> SimpleNamespace:
        return SimpleNamespace(readers_attached=self.readers_attached)

    def close(self) -> None:
        self.closed = True


class OutOfReach:
    """A rank's side of such a pool."""

    def __init__(self, name: str, **_: object) -> None:
        assert name == "mmf-no-such-pool"

    def reach(self, ipc: bytes) -> None:
        assert ipc == b"\x01\xff"
        raise mm.TransportError("expected to reach it, got: no", code="peer-access")

    def close(self) -> None:
        pass


@pytest.fixture
def apart(monkeypatch) -> None:
    """Devices that cannot reach each other, as far as this library sees them."""
    monkeypatch.setattr(device_pool, "DevicePool", FakePool)
    monkeypatch.setattr(device_pool, "DevicePoolReader", OutOfReach)
    monkeypatch.setattr(device_arena, "resolve_device", lambda device: None)
    monkeypatch.setattr(device_arena, "is_cpu", lambda device: False)


def test_without_a_device_everything_goes_through_the_host(caplog) -> None:
    inputs = make_inputs(rows=50, with_dictionary=False)
    with (
        caplog.at_level(logging.WARNING, "mmformat.cuda"),
        DeviceArena(nbytes=2**24, ranks=1) as arena,
        DeviceArenaReader(arena.name, rank=0, device="cpu") as rank,
    ):
        assert arena.wait_attached(timeout_s=0.0)
        assert "torch" in arena.reason
        found = rank.get(bytes(arena.put(inputs)), expand=True)
        assert bytes(mm.encode(found)) == bytes(mm.encode(inputs))
        del found
    assert "through the host" in caplog.text


def test_a_rank_out_of_reach_sends_everybody_through_the_host(apart) -> None:
    inputs = make_inputs(rows=50, with_dictionary=False)
    before = FakePool.puts
    with DeviceArena(nbytes=2**24, ranks=2) as arena:
        assert arena.reason is None
        assert not arena.wait_attached(timeout_s=0.01)
        early = arena.put(inputs)
        assert FakePool.puts == before + 1
        # The real rank of the host's arena, on the only device here.
        with DeviceArenaReader(arena.name, rank=1, device="cpu") as rank:
            assert "got: no" in rank.reason
            with pytest.raises(mm.TransportError) as raised:
                rank.get(early)
            assert raised.value.code == "peer-access"
            arena._pool.readers_attached = 1
            assert arena.wait_attached(timeout_s=0.0)
            handle = arena.put(inputs)
            assert FakePool.puts == before + 1
            assert "cannot reach" in arena.reason
            assert bytes(mm.encode(rank.get(handle))) == bytes(mm.encode(inputs))
        pool = arena._pool
    assert pool.closed


def test_a_rank_may_decline_what_it_never_got() -> None:
    with (
        DeviceArena(nbytes=2**24, ranks=1, device="cpu") as arena,
        DeviceArenaReader(arena.name, rank=0, device="cpu") as rank,
    ):
        handle = arena.put(make_inputs(rows=10))
        rank.release(bytes(handle))
        with pytest.raises(mm.StaleHandleError):
            rank.get(handle)


@pytest.mark.parametrize("name", ["", "mmf-x", "a|b", b"a|b|c"])
def test_a_name_of_another_kind_is_refused(name) -> None:
    with pytest.raises(mm.TransportError) as raised:
        DeviceArenaReader(name, rank=0, device="cpu")
    assert raised.value.code == "segment-name"


def test_a_wrong_device_is_no_reason_for_the_host() -> None:
    with pytest.raises(mm.PlacementError) as raised:
        DeviceArena(nbytes=2**24, ranks=1, device="meta")
    assert raised.value.code == "device"


def test_copies_that_were_begun_are_waited_for_when_a_later_one_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else the slot is given back, and they write into whatever comes next."""
    events: list[str] = []

    def copy(*_: object) -> int:
        events.append("copy")
        return len(events) - 1  # the second is refused

    stream = SimpleNamespace(cuda_stream=0, synchronize=lambda: events.append("waited"))
    monkeypatch.setattr(device_parts.torch.cuda, "current_stream", lambda device: stream)
    monkeypatch.setattr(device_parts.torch.cuda, "device", lambda device: nullcontext())
    monkeypatch.setattr(device_parts, "library", lambda: SimpleNamespace(cudaMemcpyAsync=copy))
    monkeypatch.setattr(device_parts, "words_of", lambda status: "no" if status else None)
    with pytest.raises(mm.TransportError) as caught:
        device_parts.copy_parts([(0, 1, 2)] * 3, 64, device=torch.device("cpu"))
    assert caught.value.code == "peer-copy"
    assert events == ["copy", "copy", "waited"]
