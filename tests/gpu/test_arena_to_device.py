"""A rank gets from the arena to its device: pinned once, one copy, released by an event."""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import mmformat as mm
from mmformat.arena import device_reader as share_device
from mmformat.cuda import Registration, lane_of
from tests.gpu.inputs import assert_same, make_inputs

pytestmark = pytest.mark.gpu

SECOND = 1_500_000_000
"""Cycles that keep a stream busy for about a second."""


@pytest.fixture
def arena() -> Iterator[mm.Arena]:
    with mm.Arena.create(nbytes=2**28, ranks=1) as made:
        yield made


def keep_the_side_stream_busy() -> None:
    with lane_of(torch.device("cuda", 0)).side():
        torch.cuda._sleep(SECOND)


@pytest.mark.parametrize("compression", [None, "lz4"])
@pytest.mark.parametrize("pin", [True, False])
def test_the_values_are_the_cpus(arena, pin, compression) -> None:
    inputs = make_inputs(rows=4000)
    handle = arena.put(inputs, compression=compression)
    with mm.Arena.attach(handle, rank=0, device="cuda:0", pin=pin) as reader:
        found = reader.get(handle)
        assert_same(found, mm.decode(mm.encode(inputs)), device="cuda:0")
        assert reader.placement.registered is pin
        assert reader.placement.messages == 1
        assert reader.placement.staged_messages == (0 if pin and compression is None else 1)
        assert reader.placement.nbytes == handle.nbytes


def test_a_rank_attached_for_the_cpu_may_ask_for_a_device(arena) -> None:
    inputs = make_inputs(rows=100)
    handle = arena.put(inputs)
    with mm.Arena.attach(handle, rank=0) as reader:
        found = reader.get(handle, device="cuda")
        assert_same(found, mm.decode(mm.encode(inputs)), device="cuda:0")


def test_the_slot_goes_by_itself_while_the_tensors_live(arena) -> None:
    handle = arena.put(make_inputs(rows=4000))
    with mm.Arena.attach(handle, rank=0, device="cuda:0") as reader:
        found = reader.get(handle)
        assert arena.wait_released(timeout_s=30)
        assert found.items[0].feature.is_cuda
        reader.release(handle)  # allowed, and nothing left to do
        with pytest.raises(mm.StaleHandleError):
            reader.get(handle)


def test_nobody_waits_for_the_copy(arena) -> None:
    inputs = make_inputs(rows=1000, with_dictionary=False)
    with mm.Arena.attach(arena.name, rank=0, device="cuda:0") as reader:
        reader.get(arena.put(inputs))  # warm: compiled, allocated
        torch.cuda.synchronize()
        assert arena.wait_released(timeout_s=30)
        handle = arena.put(inputs)
        keep_the_side_stream_busy()
        pending = reader.get_async(handle)
        assert not pending.done  # it came back while the side stream was still busy
        assert arena.stats().slots_granted == 1
        found = pending.result()
        assert not pending.done
        total = found.items[0].feature.double().sum()  # the current stream waits, we do not
        assert total.item() == pytest.approx(inputs.items[0].feature.double().sum().item())
        assert pending.done
        assert arena.wait_released(timeout_s=30)


def test_compute_goes_on_beside_the_copy(arena) -> None:
    with mm.Arena.attach(arena.name, rank=0, device="cuda:0") as reader:
        reader.get(arena.put(make_inputs(rows=1000)))
        torch.cuda.synchronize()
        torch.cuda._sleep(SECOND)  # the caller's own stream
        busy = torch.cuda.Event()
        busy.record()
        pending = reader.get_async(arena.put(make_inputs(rows=1000, seed=1)))
        while not pending.done:
            pass
        assert not busy.query()
        pending.result()


def test_the_reader_may_be_closed_with_a_copy_under_way(arena) -> None:
    inputs = make_inputs(rows=1000, with_dictionary=False)
    reader = mm.Arena.attach(arena.name, rank=0, device="cuda:0")
    reader.get(arena.put(inputs))
    handle = arena.put(inputs)
    keep_the_side_stream_busy()
    found = reader.get(handle)
    reader.close()
    assert_same(found, mm.decode(mm.encode(inputs)), device="cuda:0")
    assert arena.wait_released(timeout_s=30)


def test_a_destination_of_the_callers(arena) -> None:
    inputs = make_inputs(rows=1000, with_dictionary=False)
    handle = arena.put(inputs)
    out = torch.empty(handle.nbytes + 100, dtype=torch.uint8, device="cuda")
    with mm.Arena.attach(handle, rank=0, device="cuda:0") as reader:
        torch.cuda._sleep(SECOND // 4)
        out.fill_(255)  # ours comes behind what the caller's stream still has to do
        found = reader.get(handle, out=out)
        first, last = out.data_ptr(), out.data_ptr() + out.numel()
        assert first <= found.items[0].feature.data_ptr() < last
        assert_same(found, mm.decode(mm.encode(inputs)), device="cuda:0")


@pytest.mark.parametrize(
    "out",
    [
        lambda: torch.empty(10, dtype=torch.uint8, device="cuda"),
        lambda: torch.empty(2**24, dtype=torch.float32, device="cuda"),
        lambda: torch.empty(2**24, dtype=torch.uint8),
        lambda: torch.empty(2**24, dtype=torch.uint8, device="cuda")[1:],
    ],
    ids=["short", "dtype", "cpu", "odd address"],
)
@pytest.mark.parametrize("pin", [True, False])
def test_a_destination_that_will_not_do(arena, out, pin) -> None:
    handle = arena.put(make_inputs(rows=100))
    with mm.Arena.attach(handle, rank=0, device="cuda:0", pin=pin) as reader:
        with pytest.raises(mm.PlacementError) as raised:
            reader.get(handle, out=out())
        assert raised.value.code == "destination"
        assert arena.wait_released(timeout_s=30)


def test_prefetched_handles(arena) -> None:
    many = [make_inputs(rows=500, seed=seed) for seed in range(4)]
    handles = [arena.put(inputs) for inputs in many]
    with mm.Arena.attach(arena.name, rank=0, device="cuda:0") as reader:
        reader.prefetch(handles)
        assert arena.wait_released(timeout_s=30)
        for handle, inputs in zip(handles, many, strict=True):
            assert_same(reader.get(bytes(handle)), mm.decode(mm.encode(inputs)), device="cuda:0")
        with pytest.raises(mm.StaleHandleError):
            reader.get(handles[0])


def test_a_refused_registration_is_staged_and_said(arena, monkeypatch, caplog) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise mm.PlacementError("expected to pin, got: no", code="register", hint="ulimit -l")

    monkeypatch.setattr(share_device, "Registration", refuse)
    inputs = make_inputs(rows=500)
    handle = arena.put(inputs)
    with (
        caplog.at_level(logging.WARNING, "mmformat.cuda"),
        mm.Arena.attach(handle, rank=0, device="cuda:0") as reader,
    ):
        assert_same(reader.get(handle), mm.decode(mm.encode(inputs)), device="cuda:0")
        assert reader.placement.reason == "expected to pin, got: no"
        assert reader.placement.staged_messages == 1
    assert "ulimit -l" in caplog.text


def test_cudas_own_refusal_has_a_reason_and_leaves_no_trace(arena) -> None:
    handle = arena.put(make_inputs(rows=10))
    with mm.Arena.attach(handle, rank=0, device="cuda:0") as reader:
        mapping = reader._on_device._mapping
        with pytest.raises(mm.PlacementError, match="already") as raised:
            Registration(mapping, device=torch.device("cuda", 0))
        assert raised.value.code == "register"
        torch.ones(1000, device="cuda").add_(1).sum().item()  # would be blamed for it otherwise


def test_the_pinned_pages_cannot_be_written_by_accident(arena) -> None:
    with mm.Arena.attach(arena.name, rank=0, device="cuda:0") as reader:
        first = reader._on_device._registration.tensor.data_ptr()
        lines = Path("/proc/self/maps").read_text().splitlines()
        (ours,) = [line for line in lines if line.startswith(f"{first:x}-")]
        assert ours.split()[1] == "r--s"


def test_a_damaged_message_is_refused_and_its_slot_goes(arena) -> None:
    slot = arena._transport.reserve(4096)
    slot.view[:] = bytes(range(256)) * 16
    handle = slot.seal()
    with mm.Arena.attach(handle, rank=0, device="cuda:0") as reader:
        with pytest.raises(mm.DecodeError):
            reader.get(handle)
        assert arena.wait_released(timeout_s=30)


def test_a_message_over_the_limits_allocates_nothing(arena) -> None:
    handle = arena.put(make_inputs(rows=4000))
    with mm.Arena.attach(handle, rank=0, device="cuda:0") as reader:
        before = torch.cuda.memory_stats()["allocation.all.allocated"]
        with pytest.raises(mm.LimitError):
            reader.get(handle, limits=mm.Limits(message_nbytes=10_000))
        assert torch.cuda.memory_stats()["allocation.all.allocated"] == before


def test_an_inline_message(arena) -> None:
    inputs = make_inputs(rows=100)
    with mm.Arena.attach(arena.name, rank=0, device="cuda:0") as reader:
        found = reader.get(mm.encode(inputs))
        assert_same(found, mm.decode(mm.encode(inputs)), device="cuda:0")


def test_a_thousand_messages_leave_device_memory_flat(arena) -> None:
    inputs = make_inputs(rows=300)
    expected = mm.decode(mm.encode(inputs))
    with mm.Arena.attach(arena.name, rank=0, device="cuda:0") as reader:
        for number in range(1000):
            found = reader.get(arena.put(inputs, timeout_s=10))
            if number == 50:
                torch.cuda.synchronize()
                reserved = torch.cuda.memory_reserved()
            if number % 100 == 99:
                assert_same(found, expected, device="cuda:0")
        del found
        gc.collect()
        torch.cuda.synchronize()
        assert torch.cuda.memory_reserved() <= reserved + 2**26
        assert arena.wait_released(timeout_s=30)


def test_two_devices_of_one_process_share_the_pinning(arena) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip(f"needs 2 CUDA devices, got {torch.cuda.device_count()}")
    inputs = make_inputs(rows=500)
    with mm.Arena.attach(arena.name, rank=0, device="cuda:0") as reader:
        for device in ("cuda:1", "cuda:0"):
            found = reader.get(arena.put(inputs), device=device)
            assert_same(found, mm.decode(mm.encode(inputs)), device=device)
        assert reader.placement.staged_messages == 0


def test_items_in_slots_of_their_own_come_to_the_device_and_are_released(arena) -> None:
    inputs = mm.materialize(
        mm.MultimodalInputs(
            items=[make_inputs(rows=rows, seed=rows).items[0] for rows in (500, 700)],
            request_data=make_inputs(rows=10).request_data,
        )
    )
    with mm.Arena.attach(arena.name, rank=0, device="cuda:0") as reader:
        for _ in range(2):
            handle = arena.put(inputs, reuse="items")
            assert handle.composed
            found = reader.get_async(handle).result()
            assert_same(found, mm.decode(mm.encode(inputs)), device="cuda:0")
            assert arena.wait_released(timeout_s=30)
            reader.release(handle)  # allowed, and nothing left to do
            with pytest.raises(mm.StaleHandleError):
                reader.get(handle)
    assert arena.stats().hits == 2
