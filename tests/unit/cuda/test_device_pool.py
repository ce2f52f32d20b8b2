"""What a pool sends beside the device's bytes, put together again without a device."""

from __future__ import annotations

import ctypes
import dataclasses

import pytest
import torch

import mmformat as mm
from mmformat.codec import encode
from mmformat.cuda import lane_of
from mmformat.cuda.decode import decode_with
from mmformat.cuda.device_parts import Plan, joined, pieces_of
from tests.gpu.inputs import assert_same, make_inputs

LANE = lane_of(torch.device("cpu"))


def test_head_and_device_bytes_are_the_message() -> None:
    inputs = make_inputs(rows=400)
    plan = Plan()
    message = encode(plan.without_bytes(inputs))
    head, writes = plan.split(message)
    # What the pool's copies do, in this process: 255 everywhere else, so that a gap is seen.
    buffer = torch.full((message.nbytes,), 255, dtype=torch.uint8)
    for at, address, nbytes in writes:
        ctypes.memmove(buffer.data_ptr() + at, address, nbytes)
    found, tensors = decode_with(
        joined(head, message.nbytes), buffer, lane=LANE, limits=mm.Limits(), expand=True
    )
    assert_same(found, mm.decode(mm.encode(inputs)), device="cpu")
    assert len(head) < 20_000 < message.nbytes
    assert tensors


def test_the_whole_message_where_its_readers_see_every_byte() -> None:
    inputs = make_inputs(rows=40)
    plan = Plan(shows_first_bytes=True)
    message = encode(plan.without_bytes(inputs))
    head, writes = plan.split(message)
    slot = bytearray(b"\xff" * message.nbytes)
    for at, piece in pieces_of(head, message.nbytes):
        slot[at : at + len(piece)] = piece
    start = torch.frombuffer(slot, dtype=torch.uint8).data_ptr()
    for at, address, nbytes in writes:
        ctypes.memmove(start + at, address, nbytes)
    assert bytes(slot) == bytes(mm.encode(inputs))


def test_fields_that_are_no_tensors_come_along() -> None:
    inputs = make_inputs(rows=20)
    inputs.items[0] = dataclasses.replace(inputs.items[0], hash=12, pad_value=34, identity="x")
    out = Plan().without_bytes(inputs)
    item = out.items[0]
    assert (item.hash, item.pad_value, item.identity, item.offsets) == (12, 34, "x", [(3, 12)])


@pytest.mark.parametrize(
    "head",
    [
        b"short",
        (100).to_bytes(8, "little") + (50).to_bytes(8, "little") + bytes(50),
        (0).to_bytes(8, "little") + (50).to_bytes(8, "little") + bytes(10),
        ((8).to_bytes(8, "little") + (8).to_bytes(8, "little") + bytes(8)) * 2,
    ],
    ids=["torn", "beyond the message", "missing bytes", "overlap"],
)
def test_pieces_that_lie_are_refused(head) -> None:
    with pytest.raises(mm.DecodeError) as raised:
        joined(head, 128)
    assert raised.value.code == "pieces"
