"""The bytes of a tensor lie in its own memory, or it is refused."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from mmformat.codec import decode, encode
from mmformat.codec.verify import verify
from mmformat.errors import EncodeError, ModelError
from mmformat.model import DictionaryTensor, EncodedMessage, MultimodalDataItem, MultimodalInputs
from mmformat.model.identity import identity_of
from mmformat.model.tensors import StridedBytes, tensor_buffer, tensor_part


def item(feature: Any) -> MultimodalInputs:
    return MultimodalInputs(items=[MultimodalDataItem(modality="IMAGE", feature=feature)])


def resized(nbytes: int) -> torch.Tensor:
    tensor = torch.ones(100)
    tensor.untyped_storage().resize_(nbytes)
    return tensor


def small_view() -> torch.Tensor:
    view = torch.ones(100).view(10, 10).T
    view.untyped_storage().resize_(396)
    return view


def fake() -> torch.Tensor:
    with FakeTensorMode():
        return torch.ones(3)


class Raising(torch.Tensor):
    @classmethod
    def __torch_function__(cls, *args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("boom")


def strided(shape: tuple[int, ...], strides: tuple[int, ...]) -> Any:
    return np.lib.stride_tricks.as_strided(np.zeros(10, np.float32), shape, strides)


def shrunk() -> Any:
    array = np.zeros(1000, np.float32)
    view = array[:]
    array.resize(10, refcheck=False)
    return view


CASES = {
    "storage of 0 bytes": lambda: resized(0),
    "storage of 40 bytes": lambda: resized(40),
    "view of a small storage": small_view,
    "fake": fake,
    "raising": lambda: torch.ones(3).as_subclass(Raising),
    "as_strided, more elements": lambda: strided((100,), (4,)),
    "as_strided, overlapping and beyond": lambda: strided((4, 4), (12, 4)),
    "as_strided, before the start": lambda: strided((4,), (-4,)),
    "array whose owner shrank": shrunk,
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("turns", [1, 4])
def test_bytes_that_are_not_the_tensors_are_refused(name: str, turns: int) -> None:
    value = CASES[name]()
    for _ in range(turns):
        # A template of a good tensor of the same dtype and shape must not let it pass.
        if name.startswith("storage"):
            for _ in range(3):
                encode(item(torch.ones(100)))
        with pytest.raises(EncodeError) as caught:
            encode(item(value))
        assert caught.value.path == "$.items[0].feature"
        with pytest.raises(ModelError):
            identity_of(item(value).items[0])
        with pytest.raises(EncodeError):
            encode(MultimodalInputs(request_data={"a": [value]}))


@pytest.mark.filterwarnings("ignore:The PyTorch API of MaskedTensors")
def test_tensors_without_plain_memory_are_refused() -> None:
    masked = torch.masked.masked_tensor(torch.ones(3), torch.tensor([True, False, True]))
    with pytest.raises(EncodeError, match="plain tensor, got a MaskedTensor"):
        encode(item(masked))
    seen = []

    def batched(row: torch.Tensor) -> torch.Tensor:
        with pytest.raises(EncodeError, match="cannot be read"):
            encode(item(row))
        seen.append(row.shape)
        return row

    torch.vmap(batched)(torch.ones(3, 4))
    assert seen


def test_a_view_that_no_memory_holds_is_refused() -> None:
    with pytest.raises(EncodeError, match="no memory for a contiguous copy") as caught:
        encode(item(torch.ones(1).expand(2**50)))
    assert caught.value.path == "$.items[0].feature"


def test_parameters_and_plain_subclasses_travel() -> None:
    class Plain(torch.Tensor):
        pass

    for value in (torch.nn.Parameter(torch.ones(5)), torch.ones(5).as_subclass(Plain)):
        assert decode(encode(item(value))).items[0].feature.tolist() == [1] * 5


def permuted(value: Any) -> Any:
    value = value.reshape(4, 50, -1)
    return value.permute(2, 0, 1) if isinstance(value, torch.Tensor) else value.transpose(2, 0, 1)


VIEWS = {
    "transposed": lambda x: x.T,
    "stepped": lambda x: x[::3, 1::2],
    "permuted": permuted,
    "one column": lambda x: x[:, 3:4].T,
}


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("dtype", ["float32", "uint8", "bool", "float16", "complex64", "bfloat16"])
@pytest.mark.parametrize("library", ["torch", "numpy"])
def test_views_with_strides_are_written_where_they_go(view: str, dtype: str, library: str) -> None:
    base = torch.randn(200, 300).to(getattr(torch, dtype))
    if library == "numpy":
        if dtype == "bfloat16":
            pytest.skip("numpy has no bfloat16 of its own")
        base = base.numpy()
    value = VIEWS[view](base)
    expected = torch.as_tensor(np.ascontiguousarray(value)) if library == "numpy" else value
    for _ in range(4):
        message = encode(item(value))
        target = bytearray(message.nbytes)
        assert message.write_into(memoryview(target)) == message.nbytes
        assert bytes(target) == bytes(message) == b"".join(message.frames)
        out = decode(target).items[0].feature
        assert torch.equal(torch.as_tensor(out), expected.contiguous())
        assert verify(target) == []


def test_writing_a_view_with_strides_allocates_nothing() -> None:
    value = np.random.default_rng(1).random((1000, 4000)).astype(np.float32).T
    target = memoryview(bytearray(encode(item(value)).nbytes))
    for _ in range(3):
        encode(item(value)).write_into(target)
    tracemalloc.start()
    encode(item(value)).write_into(target)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 * 2**10 < value.nbytes
    assert decode(target).items[0].feature.tobytes() == value.tobytes()


def test_the_head_of_a_view_is_its_first_bytes_in_c_order() -> None:
    for value in (
        torch.arange(40000).view(200, 200).T,
        torch.arange(40000).to(torch.int8).view(200, 200).T,
        torch.randn(100, 300, dtype=torch.complex64).conj().T,
        torch.randn(100, 300, dtype=torch.complex64).conj().imag,
        np.arange(40000, dtype=np.int16).reshape(4, 100, 100)[:, ::-1, 3::7],
    ):
        part = tensor_part(value)
        assert isinstance(part, StridedBytes)
        whole = bytes(memoryview(tensor_buffer(value)))
        assert part.head() == whole[:4]
        assert len(whole) == len(part) == value.nbytes


def test_bool_bytes_are_0_and_1() -> None:
    """Clauses: T-8."""
    raw = np.array([0, 1, 2, 255] * 5, np.uint8)
    for value in (
        raw.view(bool),
        torch.from_numpy(raw).view(torch.bool),
        raw.reshape(4, 5).view(bool).T,
        torch.from_numpy(raw.reshape(4, 5)).view(torch.bool).T,
        raw[:4].view(bool),
        DictionaryTensor(np.zeros((1, 9), np.uint8), raw[None, :4].view(bool)),
    ):
        for _ in range(4):
            message = bytes(encode(item(value)))
            assert verify(message) == []
        out = decode(message).items[0].feature
        if not isinstance(value, DictionaryTensor):
            assert np.array_equal(np.asarray(out), np.asarray(value).astype(np.uint8) != 0)


def test_frames_of_a_lazy_message_are_buffers() -> None:
    message = encode(item(torch.ones(100, 100).T))
    assert len(message.frames) == len(list(message)) >= 2
    again = EncodedMessage(message.frames)
    assert bytes(again) == bytes(message)
    assert decode(message).items[0].feature.shape == (100, 100)
