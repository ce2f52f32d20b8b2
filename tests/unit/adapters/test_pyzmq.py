"""send_mm and recv_mm where send_pyobj and recv_pyobj stood."""

from __future__ import annotations

import asyncio
import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zmq
import zmq.asyncio

import mmformat as mm
from mmformat.adapters.pyzmq import recv_mm, send_mm


@pytest.fixture
def pair() -> Iterator[tuple[Any, Any]]:
    with zmq.Context() as context, context.socket(zmq.PAIR) as a, context.socket(zmq.PAIR) as b:
        a.bind("inproc://pair")
        b.connect("inproc://pair")
        b.rcvtimeo = 5_000
        yield a, b


@pytest.mark.parametrize("copy", [True, False])
def test_inputs_arrive_as_they_were_sent(pair: tuple[Any, Any], copy: bool) -> None:
    feature = torch.randn(300, 40).to(torch.bfloat16)
    item = mm.MultimodalDataItem(modality="VIDEO", feature=feature, hash=7, offsets=[(0, 3)])
    inputs = mm.MultimodalInputs(items=[item], request_data={"video_token_id": 9})
    send_mm(pair[0], inputs, copy=copy)
    received = recv_mm(pair[1])
    assert isinstance(received, mm.MultimodalInputs)
    assert torch.equal(received.items[0].feature, feature)
    assert (received.items[0].hash, received.items[0].modality) == (7, mm.Modality.VIDEO)
    assert received.request_data == {"video_token_id": 9}


@pytest.mark.parametrize(
    "value",
    [None, 3, "text", b"bytes", [1, (2, None)], {"a": {"b": 2.5}, 3: "int key"}, {}],
    ids=repr,
)
def test_plain_values_arrive_as_they_were_sent(pair: tuple[Any, Any], value: Any) -> None:
    send_mm(pair[0], value)
    assert recv_mm(pair[1]) == value


def test_a_bare_array_and_nested_tensors_arrive(pair: tuple[Any, Any]) -> None:
    send_mm(pair[0], np.arange(6).reshape(2, 3))
    assert recv_mm(pair[1]).tolist() == [[0, 1, 2], [3, 4, 5]]
    send_mm(pair[0], {"mm": [torch.ones(3), {"x": torch.zeros(2, 2)}]})
    received = recv_mm(pair[1])
    assert received["mm"][0].tolist() == [1.0, 1.0, 1.0]
    assert received["mm"][1]["x"].shape == (2, 2)


def test_inputs_with_no_item_stay_inputs(pair: tuple[Any, Any]) -> None:
    send_mm(pair[0], mm.MultimodalInputs(request_data={"a": 1}))
    assert recv_mm(pair[1]).request_data == {"a": 1}


def test_what_is_changed_after_sending_is_not_sent(pair: tuple[Any, Any]) -> None:
    """send_pyobj copies before it returns, so its drop-in does too."""
    array = np.zeros(100_000, np.uint8)
    send_mm(pair[0], array)
    array[:] = 1
    assert not recv_mm(pair[1]).any()


def test_without_a_copy_the_tensors_own_memory_is_sent(pair: tuple[Any, Any]) -> None:
    array = np.zeros(100_000, np.uint8)
    tracker = send_mm(pair[0], array, copy=False)
    received = recv_mm(pair[1])
    assert received.ctypes.data == array.ctypes.data
    assert not tracker.done
    del received


class _Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_is_refused_and_nothing_runs(
    pair: tuple[Any, Any], tmp_path: Path, protocol: int
) -> None:
    pair[0].send_pyobj(_Bomb(tmp_path / "made"), protocol=protocol)
    with pytest.raises(mm.UnsafePickleError, match="expected a message, got a pickle") as caught:
        recv_mm(pair[1])
    assert "send_mm" in (caught.value.hint or "")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("frames", [[b""], [b"junk"], [b"\x80"], [b"\xff" * 40, b""]])
def test_other_bytes_are_refused(pair: tuple[Any, Any], frames: list[bytes]) -> None:
    pair[0].send_multipart(frames)
    with pytest.raises(mm.DecodeError):
        recv_mm(pair[1])


def test_limits_hold(pair: tuple[Any, Any]) -> None:
    send_mm(pair[0], np.zeros(10_000, np.uint8))
    with pytest.raises(mm.LimitError):
        recv_mm(pair[1], limits=mm.Limits(message_nbytes=1_000))


def test_a_value_that_cannot_travel_is_named(pair: tuple[Any, Any]) -> None:
    with pytest.raises(mm.EncodeError, match=r"cannot carry a builtins\.object"):
        send_mm(pair[0], {"a": object()})


def test_flags_reach_the_socket(pair: tuple[Any, Any]) -> None:
    with pytest.raises(zmq.Again):
        recv_mm(pair[1], zmq.NOBLOCK)


def test_asynchronous_sockets_are_awaited() -> None:
    async def main() -> Any:
        context = zmq.asyncio.Context()
        a, b = context.socket(zmq.PAIR), context.socket(zmq.PAIR)
        a.bind("inproc://async")
        b.connect("inproc://async")
        await send_mm(a, {"x": torch.ones(5000)})
        received = await asyncio.wait_for(recv_mm(b), 5)
        context.destroy(0)
        return received

    assert asyncio.run(main())["x"].sum().item() == 5000
