"""Messages from anywhere decode to a device, with the values that the CPU gets."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import mmformat as mm
from mmformat.cuda import lane_of
from tests.gpu.inputs import assert_same, make_inputs, sources

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("compression", [None, "lz4"])
@pytest.mark.parametrize("kind", ["message", "bytes", "frames", "path"])
def test_every_source(tmp_path, kind, compression) -> None:
    message = mm.encode(make_inputs(rows=3000), compression=compression)
    found = mm.decode(sources(message, tmp_path)[kind], device="cuda")
    assert_same(found, mm.decode(message), device="cuda:0")


def test_a_message_of_many_chunks() -> None:
    message = mm.encode(make_inputs(rows=20_000))
    assert message.nbytes > 80_000_000
    assert_same(mm.decode(message, device="cuda:0"), mm.decode(message), device="cuda:0")


def test_the_source_may_be_overwritten_at_once() -> None:
    message = mm.encode(make_inputs(rows=10_000))
    expected = mm.decode(bytes(message))
    room = bytearray(bytes(message))
    torch.cuda._sleep(100_000_000)  # the device is busy: nothing was read early by luck
    found = mm.decode(room, device="cuda")
    np.frombuffer(room, np.uint8)[:] = 255
    assert_same(found, expected, device="cuda:0")


def test_the_tensors_are_views_of_one_allocation() -> None:
    found = mm.decode(mm.encode(make_inputs(rows=100, with_dictionary=False)), device="cuda")
    item = found.items[0]
    tensors = [item.feature, item.model_specific_data["image_grid_thw"], found.request_data["m"]]
    assert len({tensor.untyped_storage().data_ptr() for tensor in tensors}) == 1
    assert all(tensor.data_ptr() % 64 == 0 for tensor in tensors)


def test_codes_are_handed_over_unexpanded() -> None:
    message = mm.encode(make_inputs(rows=100))
    found = mm.decode(message, device="cuda", expand=False).request_data["codes"]
    assert isinstance(found, mm.DictionaryTensor)
    assert found.codes.is_cuda
    assert found.table.is_cuda
    expected = mm.decode(message).request_data["codes"]
    assert torch.equal(found.expand_on("cuda").cpu(), expected)


def test_numpy_has_no_devices() -> None:
    with pytest.raises(mm.PlacementError) as raised:
        mm.decode(mm.encode(mm.MultimodalInputs()), device="cuda", library="numpy")
    assert raised.value.code == "library"


@pytest.mark.parametrize("device", ["cuda:99", "meta", "nonsense"])
def test_a_device_that_is_not_there(device) -> None:
    with pytest.raises(mm.PlacementError) as raised:
        mm.decode(mm.encode(mm.MultimodalInputs()), device=device)
    assert raised.value.code == "device"


def test_a_message_without_tensors() -> None:
    found = mm.decode(mm.encode(mm.MultimodalInputs(request_data={"a": 1})), device="cuda")
    assert found.request_data == {"a": 1}


def test_a_code_beyond_a_short_table_is_refused() -> None:
    good = mm.DictionaryTensor(torch.zeros(1, 100, dtype=torch.uint8), torch.randn(1, 3))
    raw = bytearray(bytes(mm.encode(mm.MultimodalInputs(request_data={"d": good}))))
    at = raw.rindex(bytes(100))
    raw[at + 50] = 200
    with pytest.raises(mm.IntegrityError) as raised:
        mm.decode(bytes(raw), device="cuda")
    assert raised.value.code == "dictionary-code"


def test_device_memory_stays_flat() -> None:
    message = mm.encode(make_inputs(rows=2000))
    for _ in range(5):
        mm.decode(message, device="cuda")
    torch.cuda.synchronize()
    allocated, reserved = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
    for _ in range(100):
        mm.decode(message, device="cuda")
    torch.cuda.synchronize()
    assert torch.cuda.memory_allocated() <= allocated  # what earlier tests left may go meanwhile
    assert torch.cuda.memory_reserved() <= 2 * reserved


def test_compressed_messages_behind_each_other_keep_their_own_values() -> None:
    many = [mm.encode(make_inputs(rows=4000, seed=seed), compression="lz4") for seed in range(3)]
    with lane_of(torch.device("cuda", 0)).side():
        torch.cuda._sleep(500_000_000)  # no copy has begun when the next message is decompressed
    found = [mm.decode(message, device="cuda") for message in many]
    for one, message in zip(found, many, strict=True):
        assert_same(one, mm.decode(message), device="cuda:0")
