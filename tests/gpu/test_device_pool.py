"""A pool on the producer's GPU: other processes copy from it, die, and leave nothing behind."""

from __future__ import annotations

import pytest
import torch

import mmformat as mm
from mmformat.cuda.device_pool import DevicePool, DevicePoolReader
from tests.gpu.inputs import make_inputs
from tests.gpu.processes import Child, arena_rank, digest, pool_producer, pool_rank

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(240)]


def device_of(number: int) -> str:
    return f"cuda:{number % torch.cuda.device_count()}"


def on_device(inputs: mm.MultimodalInputs) -> mm.MultimodalInputs:
    """Return the inputs with their large tensors on the GPU, as an encoder leaves them."""
    return mm.decode(mm.encode(inputs), device="cuda:0", expand=False)


def released(pool: DevicePool) -> bool:
    for _ in range(3000):
        pool.reap()
        if pool.stats().slots_granted == 0:
            return True
        torch.cuda._sleep(1_000_000)
        torch.cuda.synchronize()
    return False


def test_a_thousand_messages_with_ranks_killed_in_between() -> None:
    world = 2
    expected = {
        seed: digest(mm.decode(mm.encode(make_inputs(rows=200, seed=seed)))) for seed in range(3)
    }
    placed = {seed: on_device(make_inputs(rows=200, seed=seed)) for seed in range(3)}
    with DevicePool(nbytes=2**25, ranks=world, device="cuda:0") as pool:
        ranks = [Child(pool_rank, pool.name, each, device_of(each)) for each in range(world)]
        try:
            for rank in ranks:
                assert rank.answer() == "attached"
            free_nbytes = 0
            for number in range(1000):
                seed = number % 3
                handle = bytes(pool.put(placed[seed], timeout_s=20))
                for rank in ranks:
                    rank.pipe.send(handle)
                for rank in ranks:
                    assert rank.answer() == (expected[seed], True)
                if number in (300, 600):
                    # Both are granted this one; the dead rank never asks for it.
                    orphan = bytes(pool.put(placed[seed], timeout_s=20))
                    ranks[1].kill()
                    assert ranks[0].ask(orphan) == (expected[seed], True)
                    assert released(pool)
                    ranks[1] = Child(pool_rank, pool.name, 1, device_of(1))
                    assert ranks[1].answer() == "attached"
                if number == 20:
                    free_nbytes = torch.cuda.mem_get_info(0)[0]
            assert released(pool)
            assert torch.cuda.mem_get_info(0)[0] >= free_nbytes - 2**27
        finally:
            for rank in ranks:
                rank.kill()


def test_a_dead_producer_is_said() -> None:
    producer = Child(pool_producer, 1)
    try:
        name = producer.answer()
        with DevicePoolReader(name, rank=0, device=device_of(1)) as reader:
            first, second = producer.ask(), producer.ask()
            expected = digest(mm.decode(mm.encode(make_inputs(rows=200))))
            assert digest(reader.get(first)) == expected
            with pytest.raises(mm.StaleHandleError):
                reader.get(first)
            producer.kill()
            with pytest.raises(mm.TransportError) as raised:
                reader.get(second)
            assert raised.value.code == "producer-gone"
    finally:
        producer.kill()
        from mmformat.shm import sweep

        sweep()


@pytest.mark.parametrize("kind", ["pool", "arena"])
def test_a_rank_has_no_context_on_another_device(kind) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip(f"needs 2 CUDA devices, got {torch.cuda.device_count()}")
    with (
        DevicePool(nbytes=2**25, ranks=1, device="cuda:0") as pool,
        mm.Arena.create(nbytes=2**25, ranks=1) as arena,
    ):
        inputs = make_inputs(rows=200)
        handle = bytes(pool.put(on_device(inputs)) if kind == "pool" else arena.put(inputs))
        before = torch.cuda.mem_get_info(0)[0]
        if kind == "pool":
            rank = Child(pool_rank, pool.name, 0, "cuda:1")
        else:
            rank = Child(arena_rank, arena.name, 0, "cuda:1")
        try:
            rank.answer()
            answer = rank.ask(handle)
            assert answer == (digest(mm.decode(mm.encode(inputs))), True)
            # A context takes 300 MiB and more.
            assert before - torch.cuda.mem_get_info(0)[0] < 2**27
        finally:
            rank.kill()


def test_a_full_pool_says_so() -> None:
    inputs = on_device(make_inputs(rows=2000))
    with (
        DevicePool(nbytes=2**21, ranks=1, device="cuda:0") as pool,
        pytest.raises(mm.ArenaFullError),
    ):
        pool.put(inputs)


def test_the_pool_gives_its_memory_back() -> None:
    torch.cuda.synchronize()
    before = torch.cuda.mem_get_info(0)[0]
    pool = DevicePool(nbytes=2**28, ranks=1, device="cuda:0")
    assert torch.cuda.mem_get_info(0)[0] <= before - 2**28
    pool.close()
    pool.close()
    assert torch.cuda.mem_get_info(0)[0] >= before - 2**21
