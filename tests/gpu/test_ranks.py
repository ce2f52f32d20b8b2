"""Several ranks, each on a device of its own where there are as many, and deaths among them."""

from __future__ import annotations

import pytest
import torch

import mmformat as mm
from tests.gpu.inputs import make_inputs
from tests.gpu.processes import Child, arena_rank, digest

pytestmark = pytest.mark.gpu


def device_of(number: int) -> str:
    return f"cuda:{number % torch.cuda.device_count()}"


@pytest.mark.timeout(200)
def test_every_rank_gets_every_bit_and_a_killed_one_holds_nothing() -> None:
    world = max(2, min(4, torch.cuda.device_count()))
    with mm.Arena.create(nbytes=2**26, ranks=world) as arena:
        ranks = [Child(arena_rank, arena.name, each, device_of(each)) for each in range(world)]
        try:
            for rank in ranks:
                rank.answer()
            for seed in range(5):
                inputs = make_inputs(rows=1000, seed=seed)
                handle = bytes(arena.put(inputs, timeout_s=10))
                expected = (digest(mm.decode(mm.encode(inputs))), True)
                for rank in ranks:
                    rank.pipe.send(handle)
                assert [rank.answer() for rank in ranks] == [expected] * world
            assert arena.wait_released(timeout_s=30)
            arena.put(make_inputs(rows=1000))  # nobody gets it
            ranks[-1].kill()
            for rank in ranks[:-1]:
                rank.end()
            assert arena.wait_released(timeout_s=30)
        finally:
            for rank in ranks:
                rank.kill()
