"""Codes and a table expand to the bits that they stand for, in numpy and in torch."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmformat.errors import ModelError
from mmformat.model import DictionaryTensor
from mmformat.model.dictionary import PAIRS_FROM

DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float64": torch.float64,
    "float8_e4m3fn": torch.float8_e4m3fn,
    "complex128": torch.complex128,
}


def _bits(value: Any) -> bytes:
    if torch.is_tensor(value):
        return value.reshape(-1).view(torch.uint8).numpy().tobytes()
    return np.ascontiguousarray(value).tobytes()


def _by_definition(tensor: DictionaryTensor, words: np.ndarray) -> np.ndarray:
    """``table[c, codes[..., c, ...]]`` with numpy's own indexing, then the repeated axis."""
    codes = np.asarray(tensor.codes)
    channels = words.shape[0]
    shape = [1] * codes.ndim
    shape[tensor.axis] = channels
    values = words[np.arange(channels).reshape(shape), codes]
    if tensor.repeat > 1:
        values = np.repeat(
            np.expand_dims(values, tensor.repeat_axis), tensor.repeat, tensor.repeat_axis
        )
    return values


@given(data=st.data())
def test_expanding_is_the_look_up_of_the_definition(data: st.DataObject) -> None:
    shape = tuple(data.draw(st.lists(st.integers(0, 6), min_size=1, max_size=5)))
    axis = data.draw(st.integers(0, len(shape) - 1))
    channels = data.draw(st.sampled_from(sorted({1, shape[axis]} - {0})))
    entries = data.draw(st.integers(1, 256))
    repeat = data.draw(st.integers(1, 3))
    repeat_axis = data.draw(st.integers(0, len(shape)))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    codes = rng.integers(0, entries, shape, np.uint8)
    words = rng.integers(0, 2**32, (channels, entries), np.uint32)  # NaNs of any payload among them
    layout = {"axis": axis, "repeat_axis": repeat_axis, "repeat": repeat}

    tensor = DictionaryTensor(codes, words.view(np.float32), **layout)
    expected = _by_definition(tensor, words)

    assert tensor.shape == expected.shape == tensor.expand().shape
    assert _bits(tensor.expand()) == expected.tobytes()
    assert _bits(tensor.expand_on("cpu")) == expected.tobytes()
    both = DictionaryTensor(
        torch.from_numpy(codes),
        torch.from_numpy(words.view(np.int32)).view(torch.float32),
        **layout,
    )
    assert torch.is_tensor(both.expand())
    assert _bits(both.expand()) == _bits(both.expand_on("cpu")) == expected.tobytes()


@pytest.mark.parametrize("entries", [256, 255])
@pytest.mark.parametrize(
    ("shape", "axis", "repeat_axis"),
    [
        ((1400, 3, 14, 14), 1, 2),
        ((1400, 3, 14, 14), 1, 0),
        ((1, 3, 640, 500), 1, 2),
        ((1, 3, 641, 501), 1, 4),
        ((640, 480, 3), 2, 0),
        ((3, 300_001), 0, 1),
    ],
)
@pytest.mark.parametrize(("repeat", "dtype"), [(1, "float32"), (2, "float32"), (2, "bfloat16")])
def test_large_tensors_take_the_same_values(
    shape: tuple[int, ...], axis: int, repeat_axis: int, *, repeat: int, entries: int, dtype: str
) -> None:
    rng = np.random.default_rng(1)
    codes = rng.integers(0, entries, shape, np.uint8)
    assert codes.size // 3 >= PAIRS_FROM
    width = np.uint32 if dtype == "float32" else np.uint16
    words = rng.integers(0, np.iinfo(width).max, (3, entries), width)
    table = torch.from_numpy(words.view(np.uint8)).view(DTYPES[dtype]).view(3, entries)
    tensor = DictionaryTensor(codes, table, axis=axis, repeat_axis=repeat_axis, repeat=repeat)
    expected = _by_definition(tensor, words).tobytes()
    assert _bits(tensor.expand()) == expected
    assert _bits(tensor.expand_on("cpu")) == expected


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_element_size(dtype: str) -> None:
    table = torch.arange(10, dtype=torch.float32).view(1, 10).to(DTYPES[dtype])
    codes = np.arange(60, dtype=np.uint8).reshape(6, 10) % 10
    tensor = DictionaryTensor(codes, table, repeat=2)
    expected = table[0][torch.from_numpy(codes).long()].expand(2, 6, 10)
    assert tensor.dtype == dtype
    assert _bits(tensor.expand()) == _bits(expected)
    assert _bits(tensor.expand_on("cpu")) == _bits(expected)


def test_the_shape_that_was_asked_for() -> None:
    codes = np.arange(4 * 3 * 4, dtype=np.uint8).reshape(4, 3, 4)
    table = np.arange(256 * 3, dtype=np.float32).reshape(3, 256)
    tensor = DictionaryTensor(codes, table, axis=1, repeat_axis=2, repeat=2, shape=(4, 24))
    assert tensor.shape == tensor.expand().shape == tuple(tensor.expand_on("cpu").shape) == (4, 24)
    assert (tensor.expand()[1, 8:16] == np.tile(table[1, 16:20], 2)).all()


@pytest.mark.parametrize("torch_codes", [False, True])
def test_a_code_without_an_entry_is_refused(torch_codes: bool) -> None:
    codes: Any = np.array([[0, 1, 7]], np.uint8)
    tensor = DictionaryTensor(
        torch.from_numpy(codes) if torch_codes else codes, np.zeros((1, 7), np.float32)
    )
    for expand in (tensor.expand, lambda: tensor.expand_on("cpu")):
        with pytest.raises(ModelError, match="expected codes below 7, got 7") as caught:
            expand()
        assert caught.value.code == "dictionary-code"


def test_parts_that_contradict_each_other_are_refused() -> None:
    codes, table = np.zeros((2, 3), np.uint8), np.zeros((3, 4), np.float32)
    for arguments in (
        {"axis": 0},  # two channels, three rows
        {"axis": 2},
        {"axis": -1},
        {"axis": 1, "repeat": 0},
        {"axis": 1, "repeat_axis": 3},
        {"axis": 1, "shape": (7,)},
        {"axis": 1, "shape": (-2, -3)},
    ):
        with pytest.raises(ModelError):
            DictionaryTensor(codes, table, **arguments)
    for parts in (
        (codes.astype(np.int8), table),
        (codes, np.zeros((3, 257), np.float32)),
        (codes, np.zeros((3, 0), np.float32)),
        (codes, [[1.0]]),
    ):
        with pytest.raises(ModelError):
            DictionaryTensor(*parts, axis=1)


# ------------------------------------------------------------------------------------ to(dtype)


@pytest.mark.parametrize("target", ["bfloat16", "float16", "float64", "float32"])
@pytest.mark.parametrize("as_torch", [False, True])
def test_casting_the_table_is_casting_every_element(target: str, as_torch: bool) -> None:
    rng = np.random.default_rng(5)
    values = rng.normal(size=(3, 256)).astype(np.float32)
    values[0, :6] = [65_520.0, 1e-8, -0.0, np.inf, 3.3895314e38, 1 + 2**-8]  # ties, overflow
    table: Any = torch.from_numpy(values) if as_torch else values
    codes = rng.integers(0, 256, (5, 3, 7), np.uint8)
    tensor = DictionaryTensor(codes, table, axis=1, repeat_axis=0, repeat=2, shape=(2, 105))

    cast = tensor.to(target)

    assert cast.codes is codes
    assert (cast.dtype, cast.shape, cast.repeat) == (target, (2, 105), 2)
    wanted = torch.as_tensor(tensor.expand()).to(DTYPES[target])
    assert _bits(cast.expand()) == _bits(wanted)


def test_casting_copies_no_code() -> None:
    codes = np.zeros((3, 4_000_000), np.uint8)
    tensor = DictionaryTensor(codes, np.zeros((3, 256), np.float32))
    tensor.to("bfloat16")  # imports
    tracemalloc.start()
    tensor.to("float16")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100_000


def test_expanding_holds_little_beside_the_result() -> None:
    codes = np.zeros((400, 3, 100, 100), np.uint8)
    tensor = DictionaryTensor(codes, np.zeros((3, 256), np.float32), axis=1)
    tracemalloc.start()
    tensor.expand()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < tensor.spec.nbytes + 4 * 2**20


def test_only_floats_are_cast() -> None:
    with pytest.raises(ModelError, match="float"):
        DictionaryTensor(np.zeros((1, 2), np.uint8), np.zeros((1, 2), np.int32)).to("float16")
    with pytest.raises(ModelError, match="float"):
        DictionaryTensor(np.zeros((1, 2), np.uint8), np.zeros((1, 2), np.float32)).to("int8")


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_expanding_on_a_device_gives_the_same_bits(dtype: str) -> None:
    rng = np.random.default_rng(2)
    codes = rng.integers(0, 256, (900, 3, 14, 14), np.uint8)
    table = rng.normal(size=(3, 256)).astype(np.float32)
    tensor = DictionaryTensor(codes, table, axis=1, repeat_axis=2, repeat=2).to(dtype)
    found = tensor.expand_on("cuda")
    assert found.device.type == "cuda"
    assert _bits(found.cpu()) == _bits(tensor.expand())


def test_the_repr_shows_shapes_and_the_ratio() -> None:
    tensor = DictionaryTensor(np.zeros((3, 1000), np.uint8), np.zeros((3, 2), np.float32), repeat=2)
    assert repr(tensor) == (
        "DictionaryTensor(dtype=float32, shape=(2, 3, 1000), codes=(3, 1000), entries=2, "
        "repeat=2, ratio=7.94)"
    )
