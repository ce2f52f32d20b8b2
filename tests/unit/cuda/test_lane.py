"""Room that is allocated ahead: for messages of one size, and never for anybody twice."""

from __future__ import annotations

import pytest
import torch

from mmformat.cuda import copy_stream as module
from mmformat.cuda.copy_stream import AHEAD_NBYTES, Lane


class Calls:
    """What torch's bindings say where there is a device."""

    device = 0

    def _cuda_getDevice(self) -> int:
        return self.device


@pytest.fixture
def lane(monkeypatch) -> Lane:
    monkeypatch.setattr(module, "_calls", Calls)
    return Lane(torch.device("cpu"))


def test_room_comes_after_two_messages_of_one_size(lane) -> None:
    assert lane.ahead(1000) is None
    lane.prepare(1000)
    assert lane.ahead(1000) is None
    lane.prepare(1000)
    room = lane.ahead(1000)
    assert room is not None
    assert (room.numel(), room.dtype) == (1000, torch.uint8)
    assert lane.ahead(1000) is None  # it is given away once


def test_a_little_smaller_message_takes_it_and_others_do_not(lane) -> None:
    for nbytes in (1000, 900):
        lane.prepare(nbytes)
    room = lane.ahead(950)
    assert room is not None
    assert room.numel() == 1000
    for nbytes in (1001, 500):
        lane.prepare(1000)
        lane.prepare(1000)
        assert lane.ahead(nbytes) is None


@pytest.mark.parametrize("sizes", [(1000, 500), (500, 1000), (AHEAD_NBYTES + 1,) * 2])
def test_other_sizes_and_large_ones_prepare_nothing(lane, sizes) -> None:
    for nbytes in sizes:
        lane.prepare(nbytes)
    assert lane.ahead(sizes[-1]) is None


def test_only_one_room_is_kept(lane) -> None:
    for _ in range(5):
        lane.prepare(1000)
    assert lane.ahead(1000) is not None
    assert lane.ahead(1000) is None


def test_another_current_device_has_to_switch_first(lane, monkeypatch) -> None:
    monkeypatch.setattr(Calls, "device", 1)
    lane.prepare(1000)
    lane.prepare(1000)
    assert lane.ahead(1000) is None


def test_a_full_device_is_no_reason_to_fail(lane) -> None:
    def full(nbytes: int) -> torch.Tensor:
        raise torch.OutOfMemoryError(f"{nbytes} bytes")

    lane._empty = full
    lane.prepare(1000)
    lane.prepare(1000)
    assert lane.ahead(1000) is None
