"""Decoding to a device, on the one device that every machine has: all but streams and pinning."""

from __future__ import annotations

import os

import pytest
import torch
from prometheus_client import CollectorRegistry

import mmformat as mm
from mmformat.arena.device_reader import ArenaOnDevice
from mmformat.cuda import Staging, lane_of
from mmformat.cuda.decode import decode_staged, lend, room_in
from tests.gpu.inputs import assert_same, make_inputs, sources

CPU = torch.device("cpu")
LANE = lane_of(CPU)


@pytest.mark.parametrize("compression", [None, "lz4"])
@pytest.mark.parametrize("kind", ["message", "bytes", "frames", "path"])
def test_every_source(tmp_path, kind, compression) -> None:
    message = mm.encode(make_inputs(rows=2500), compression=compression)
    found, allocations = decode_staged(sources(message, tmp_path)[kind], lane=LANE)
    assert_same(found, mm.decode(message), device="cpu")
    assert allocations


def test_plain_tensors_share_one_allocation() -> None:
    message = mm.encode(make_inputs(rows=100, with_dictionary=False))
    found, _ = decode_staged(message, lane=LANE)
    item = found.items[0]
    views = [item.feature, item.model_specific_data["image_grid_thw"], found.request_data["m"]]
    assert len({view.untyped_storage().data_ptr() for view in views}) == 1
    assert all((view.data_ptr() - views[0].data_ptr()) % 64 == 0 for view in views)


def test_the_source_is_not_needed_afterwards() -> None:
    room = bytearray(bytes(mm.encode(make_inputs(rows=50))))
    expected = mm.decode(bytes(room))
    found, _ = decode_staged(room, lane=LANE)
    room[:] = bytes(len(room))
    assert_same(found, expected, device="cpu")


def test_a_code_beyond_a_short_table_names_its_place() -> None:
    good = mm.DictionaryTensor(torch.zeros(1, 100, dtype=torch.uint8), torch.randn(1, 3))
    raw = bytearray(bytes(mm.encode(mm.MultimodalInputs(request_data={"d": good}))))
    raw[raw.rindex(bytes(100)) + 50] = 200
    with pytest.raises(mm.IntegrityError) as raised:
        decode_staged(bytes(raw), lane=LANE)
    assert raised.value.code == "dictionary-code"
    assert "request_data['d']" in raised.value.path


@pytest.mark.parametrize(
    "out",
    [
        torch.empty(10, dtype=torch.uint8),
        torch.empty(2**20),
        torch.empty(2**20, 1, dtype=torch.uint8),
        torch.empty(2**20, dtype=torch.uint8)[1:],
        torch.empty(2**20, dtype=torch.uint8, device="meta"),
    ],
    ids=["short", "dtype", "axes", "odd address", "device"],
)
def test_a_destination_that_will_not_do(out) -> None:
    with pytest.raises(mm.PlacementError) as raised:
        lend(out, LANE)
        room_in(out, 1000, lane=LANE)
    assert raised.value.code == "destination"


def test_a_slot_is_released_when_it_was_read() -> None:
    inputs = make_inputs(rows=100)
    with (
        mm.Arena.create(nbytes=2**24, ranks=1) as arena,
        mm.Arena.attach(arena.name, rank=0) as reader,
    ):
        memory = ArenaOnDevice(reader._transport, CPU, pin=True)
        handle = arena.put(inputs)
        pending = memory.fetch(handle, lane=LANE, limits=None, expand=True, out=None)
        assert arena.stats().slots_granted == 0
        assert pending.done
        assert_same(pending.result(), mm.decode(mm.encode(inputs)), device="cpu")
        with pytest.raises(mm.StaleHandleError):
            memory.fetch(handle, lane=LANE, limits=None, expand=True, out=None)
        assert (memory.stats.messages, memory.stats.staged_messages) == (1, 1)
        memory.close()
        memory.close()


def test_a_damaged_slot_is_refused_and_released() -> None:
    with (
        mm.Arena.create(nbytes=2**20, ranks=1) as arena,
        mm.Arena.attach(arena.name, rank=0) as reader,
    ):
        memory = ArenaOnDevice(reader._transport, CPU, pin=False)
        slot = arena._transport.reserve(4096)
        slot.view[:] = bytes(range(256)) * 16
        with pytest.raises(mm.DecodeError):
            memory.fetch(slot.seal(), lane=LANE, limits=None, expand=True, out=None)
        assert arena.stats().slots_granted == 0
        memory.close()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_leaves_the_devices_memory_alone() -> None:
    with (
        mm.Arena.create(nbytes=2**20, ranks=1) as arena,
        mm.Arena.attach(arena.name, rank=0) as reader,
    ):
        memory = ArenaOnDevice(reader._transport, CPU, pin=True)
        pid = os.fork()
        if pid == 0:
            try:
                memory.close()
                memory._view[:1].tobytes()  # still there: nothing was closed
            except BaseException:
                os._exit(1)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        memory.close()
        with pytest.raises(ValueError):
            memory._view[:1].tobytes()


def test_the_cpu_may_be_asked_for_asynchronously_too() -> None:
    inputs = make_inputs(rows=10)
    with (
        mm.Arena.create(nbytes=2**24, ranks=1) as arena,
        mm.Arena.attach(arena.name, rank=0) as reader,
    ):
        handle = arena.put(inputs)
        reader.prefetch([handle])
        found = reader.get(handle)
        assert torch.equal(found.items[0].feature, inputs.items[0].feature)
        assert reader.placement.messages == 0


def test_a_registry_hears_of_placed_and_staged_messages() -> None:
    registry = CollectorRegistry()
    with (
        mm.Arena.create(nbytes=2**24, ranks=1) as arena,
        mm.Arena.attach(arena.name, rank=0) as reader,
    ):
        memory = ArenaOnDevice(reader._transport, CPU, pin=False, registry=registry)
        handle = arena.put(make_inputs(rows=100))
        memory.fetch(handle, lane=LANE, limits=None, expand=True, out=None)
        labels = {"arena": arena.name, "device": "cpu"}

        def told(name: str) -> float | None:
            return registry.get_sample_value(f"mmformat_placement_{name}", labels)

        assert told("messages_total") == told("staged_messages_total") == 1
        assert told("nbytes_total") == handle.nbytes
        assert told("get_seconds_count") == told("copy_seconds_count") == 1
        assert told("registered") == 0
        memory.close()


def test_attach_gives_the_registry_to_both_sides_of_a_rank() -> None:
    registry = CollectorRegistry()
    with (
        mm.Arena.create(nbytes=2**24, ranks=1) as arena,
        mm.Arena.attach(arena.name, rank=0, registry=registry) as reader,
    ):
        reader.get(arena.put(make_inputs(rows=10)))
        assert registry.get_sample_value("mmformat_arena_get_seconds_count") == 1
        memory = reader._open_on(CPU)
        labels = {"arena": arena.name, "device": "cpu"}
        assert registry.get_sample_value("mmformat_placement_messages_total", labels) == 0
        assert memory.stats.messages == 0


def test_a_compressed_tensor_goes_from_where_it_was_decompressed(monkeypatch) -> None:
    staged = []
    real = Staging.copy
    monkeypatch.setattr(
        Staging,
        "copy",
        lambda self, sources, target, lane: (
            staged.append(target.numel()) or real(self, sources, target, lane)
        ),
    )
    message = mm.encode(make_inputs(rows=4000), compression="lz4")
    found, _ = decode_staged(message, lane=LANE)
    assert sum(staged) < message.nbytes // 4  # the feature alone, 18 MB, is more
    assert_same(found, mm.decode(message), device="cpu")
