"""Decompressed tensors are found again where they were written."""

from __future__ import annotations

import torch

from mmformat.cuda import Unpacked, lane_of

LANE = lane_of(torch.device("cpu"))


def test_what_was_written_is_found() -> None:
    unpacked = Unpacked(LANE)
    unpacked.allocate(64)
    room = unpacked.allocate(256)
    room[64:72] = bytes(range(8))
    host = torch.frombuffer(room, dtype=torch.int32, offset=64, count=2)
    found = unpacked.find(host)
    assert found is not None
    assert found.tolist() == list(range(8))
    assert found.data_ptr() == host.data_ptr()


def test_tensors_from_elsewhere_and_empty_ones_are_not() -> None:
    unpacked = Unpacked(LANE)
    room = unpacked.allocate(64)
    assert unpacked.find(torch.ones(4)) is None
    assert unpacked.find(torch.frombuffer(room, dtype=torch.uint8)[:0]) is None


def test_memory_lies_on_64_bytes() -> None:
    assert torch.frombuffer(Unpacked(LANE).allocate(1000), dtype=torch.uint8).data_ptr() % 64 == 0
