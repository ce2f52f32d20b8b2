"""Inputs on a GPU reach every rank's GPU, whichever way there is."""

from __future__ import annotations

import logging

import pytest
import torch

import mmformat as mm
from mmformat.arena.device_arena import DeviceArena
from mmformat.cuda import ipc as cuda_ipc
from tests.gpu.inputs import make_inputs
from tests.gpu.processes import Child, digest, either_rank

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(240)]


@pytest.mark.parametrize("reaches", [(True, True), (True, False)], ids=["peers", "one apart"])
def test_every_rank_gets_every_message(reaches) -> None:
    expected = [digest(mm.decode(mm.encode(make_inputs(rows=300, seed=seed)))) for seed in range(3)]
    with DeviceArena(nbytes=2**26, ranks=2, device="cuda:0") as arena:
        assert arena.reason is None
        devices = [f"cuda:{number % torch.cuda.device_count()}" for number in range(2)]
        ranks = [
            Child(either_rank, arena.name, number, devices[number], reaches[number])
            for number in range(2)
        ]
        try:
            for rank in ranks:
                assert rank.answer() == "attached"
            assert arena.wait_attached(timeout_s=30)
            for seed in range(3):
                placed = mm.decode(
                    mm.encode(make_inputs(rows=300, seed=seed)), device="cuda:0", expand=False
                )
                handle = bytes(arena.put(placed, timeout_s=20))
                for rank in ranks:
                    rank.pipe.send(handle)
                for rank in ranks:
                    assert rank.answer() == (expected[seed], True)
            assert (arena.reason is None) is all(reaches)
        finally:
            for rank in ranks:
                rank.end()


def test_a_pool_that_cannot_be_shared_is_done_without(monkeypatch, caplog) -> None:
    class Refusing:
        def __init__(self, real: object) -> None:
            self.real = real

        def __getattr__(self, name: str) -> object:
            if name == "cudaIpcGetMemHandle":
                return lambda *_: 801  # cudaErrorNotSupported
            return getattr(self.real, name)

    real = cuda_ipc.library()
    monkeypatch.setattr(cuda_ipc, "library", lambda: Refusing(real))
    before = torch.cuda.mem_get_info(0)[0]
    inputs = make_inputs(rows=100)
    placed = mm.decode(mm.encode(inputs), device="cuda:0", expand=False)
    with (
        caplog.at_level(logging.WARNING, "mmformat.cuda"),
        DeviceArena(nbytes=2**26, ranks=1, device="cuda:0") as arena,
    ):
        assert "801" in arena.reason
        rank = Child(either_rank, arena.name, 0, "cuda:0", True)
        try:
            rank.answer()
            answer = rank.ask(bytes(arena.put(placed)))
            assert answer == (digest(mm.decode(mm.encode(inputs))), True)
        finally:
            rank.end()
    del placed
    assert "through the host" in caplog.text
    assert torch.cuda.mem_get_info(0)[0] >= before - 2**27
