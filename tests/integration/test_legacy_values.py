"""Values that pickle, numpy, torch and Pillow write themselves come back equal, all protocols."""

from __future__ import annotations

import array
import collections
import io
import pickle
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import mmformat as mm
from mmformat.legacy import convert, convert_all

PROTOCOLS = range(6)
ATOMS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**300), 2**300)
    | st.floats(allow_nan=False)
    | st.text(st.characters(codec="utf-8") | st.just("\ud800"), max_size=12)
    | st.binary(max_size=400)
    | st.complex_numbers(allow_nan=False)
)
# Longer integers may all share one hash, and are refused as keys.
KEYS = (
    st.text(max_size=6)
    | st.integers(-(2**63), 2**64 - 1)
    | st.tuples(st.integers(), st.text(max_size=3))
)
TREES = st.recursive(
    ATOMS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(KEYS, inner, max_size=4)
    ),
    max_leaves=20,
)


def equal(one: Any, other: Any) -> bool:
    """Compare types too: pickle keeps a tuple a tuple and True no 1."""
    if type(one) is not type(other):
        return False
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    if isinstance(one, dict):
        return list(one) == list(other) and all(equal(one[key], other[key]) for key in one)
    return bool(one == other)


@given(value=TREES, protocol=st.sampled_from(list(PROTOCOLS)))
def test_plain_values(value: Any, protocol: int) -> None:
    """What pickle.loads gives, this machine gives, without pickle.loads."""
    data = pickle.dumps([value], protocol)
    made = convert(data, isolated=False).request_data["value"]
    assert equal(made, pickle.loads(data))


@given(value=TREES)
def test_the_sandbox_gives_the_same(value: Any) -> None:
    data = pickle.dumps([value], 4)
    assert equal(convert(data).request_data["value"], [value])


ARRAYS: dict[str, Callable[[], Any]] = {
    **{
        f"numpy {name}": lambda name=name: np.arange(24).astype(name).reshape(2, 3, 4)
        for name in ("bool", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8",
                     "c8", "c16")
    },
    "numpy in Fortran order": lambda: np.asfortranarray(np.arange(24.0).reshape(2, 3, 4)),
    "numpy 0-d": lambda: np.array(7, np.int16),
    "numpy empty": lambda: np.empty((0, 3), np.float32),
    "numpy strided": lambda: np.arange(40, dtype=np.int32)[::3],
    "numpy large": lambda: np.arange(100_000, dtype=np.float32),
    "ml_dtypes bfloat16": lambda: np.arange(6).astype(ml_dtypes.bfloat16),
    "ml_dtypes float8": lambda: np.arange(6).astype(ml_dtypes.float8_e4m3fn),
}  # fmt: skip


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", ARRAYS)
def test_arrays(name: str, protocol: int) -> None:
    wanted = ARRAYS[name]()
    for isolated in (False, True):
        made = convert(pickle.dumps({"x": wanted}, protocol), isolated=isolated).request_data["x"]
        assert isinstance(made, np.ndarray)
        assert made.dtype == wanted.dtype
        assert made.shape == wanted.shape
        assert made.tobytes() == wanted.tobytes()


def test_a_big_endian_array_becomes_native_and_says_so() -> None:
    wanted = np.array([1, 2, 3], ">c8")
    made = convert_all(pickle.dumps({"x": wanted, "y": np.array([1.5], ">f8")}), isolated=False)
    x = made.inputs[0].request_data["x"]
    assert x.dtype == np.complex64
    assert (x == wanted).all()
    assert made.inputs[0].request_data["y"][0] == 1.5
    assert [note.path for note in made.report.changed] == ["$['x']", "$['y']"]


DTYPES = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16,
          torch.uint32, torch.uint64, torch.float16, torch.bfloat16, torch.float32, torch.float64,
          torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz,
          torch.complex64, torch.complex128)  # fmt: skip


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Compare dtype, shape and every bit."""
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    flat = (x.detach().resolve_conj().resolve_neg().contiguous().reshape(-1) for x in (one, other))
    return bool(torch.equal(*(x.view(torch.uint8) for x in flat)))


def write(value: Any, how: str) -> bytes:
    if how.startswith("p"):
        return pickle.dumps(value, int(how[1]))
    out = io.BytesIO()
    torch.save(value, out, _use_new_zipfile_serialization=how == "zip")
    return out.getvalue()


WAYS = ("p0", "p1", "p2", "p3", "p4", "p5", "zip", "stream")


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_torch_dtypes(dtype: torch.dtype, how: str) -> None:
    """All dtypes of the wire; torch 2.13 cannot load its own pickles of some."""
    wanted = {"x": torch.arange(12).reshape(3, 4).to(dtype), "empty": torch.empty(0, 2).to(dtype)}
    made = convert(write(wanted, how), isolated=how == "p4").request_data
    assert same(made["x"], wanted["x"])
    assert same(made["empty"], wanted["empty"])


@pytest.mark.parametrize("how", WAYS)
def test_torch_views(how: str) -> None:
    """Only the view's bytes are kept, whatever storage it is a view of."""
    base = torch.arange(1000, dtype=torch.float32).reshape(10, 100)
    wanted = {
        "row": base[3], "column": base[:, 7], "step": base[::3, ::7], "transposed": base.T,
        "expanded": base[0, :1].expand(5, 4), "scalar": base[2, 2], "whole": base,
        "one": base[3:4].t(), "twice": base,
        "conj": torch.arange(4).to(torch.complex64).mul(1j).conj(),
        "imag": torch.arange(4).to(torch.complex64).mul(2j).conj().imag,
        "parameter": torch.nn.Parameter(base[1].clone()),
    }  # fmt: skip
    made = convert(write(wanted, how), isolated=how == "p4").request_data
    for key, value in wanted.items():
        assert same(made[key], value), key
        assert made[key].untyped_storage().nbytes() <= value.nbytes or how == "p4", key
        assert not made[key].requires_grad
    made["row"][0] = -1  # ours to write to
    assert made["twice"] is made["whole"]


def test_attributes_of_a_tensor_are_reported_elsewhere_than_in_items() -> None:
    tensor = torch.zeros(2)
    tensor.note = "x"
    made = convert_all(pickle.dumps({"x": tensor}), isolated=False)
    assert same(made.inputs[0].request_data["x"], torch.zeros(2))
    assert [(note.path, note.kind) for note in made.report.notes] == [("$['x']", "dropped")]


def test_without_torch_tensors_become_arrays() -> None:
    wanted = {"a": torch.arange(3), "b": torch.arange(3).bfloat16()}
    made = convert(pickle.dumps(wanted), isolated=False, library="numpy").request_data
    assert made["a"].tolist() == [0, 1, 2]
    assert made["b"].dtype == ml_dtypes.bfloat16


@pytest.mark.parametrize("isolated", [False, True])
def test_out_of_band_buffers(isolated: bool) -> None:
    wanted = {"a": np.arange(1000.0), "b": np.arange(7, dtype=np.uint8), "c": np.ones((3, 5), "f4")}
    buffers: list[pickle.PickleBuffer] = []
    data = pickle.dumps(wanted, 5, buffer_callback=buffers.append)
    assert len(buffers) == 3
    raw = [buffer.raw() for buffer in buffers]
    made = convert(data, buffers=raw, isolated=isolated).request_data
    for key, value in wanted.items():
        assert np.array_equal(made[key], value)
    with pytest.raises(mm.DecodeError, match="another out-of-band buffer"):
        convert(data, buffers=raw[:2], isolated=isolated)
    with pytest.raises(mm.DecodeError, match="every out-of-band buffer"):
        convert(data, buffers=[*raw, b"x"], isolated=isolated)


def test_several_pickles_in_one_file() -> None:
    data = b"".join(pickle.dumps({"n": n}, n) for n in PROTOCOLS)
    made = convert_all(data, isolated=False)
    assert [part.request_data for part in made.inputs] == [{"n": n} for n in PROTOCOLS]
    assert made.report.pickles == 6
    joined = convert(data, isolated=False).request_data["requests"]
    assert [part["request_data"]["n"] for part in joined] == list(PROTOCOLS)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_containers_that_the_model_does_not_have(protocol: int) -> None:
    grouped = collections.defaultdict(list)
    grouped["image"].append(1)
    value = {
        "set": {3, 1, 2}, "frozen": frozenset("ba"), "ordered": collections.OrderedDict(b=1, a=2),
        "grouped": grouped, "bytes": bytearray(b"ab\xff"), "size": torch.Size((2, 3)),
        "dtype": torch.float16, "device": torch.device("cuda", 1), "slice": slice(1, 5, None),
        "ids": array.array("q", [1, -2]), "lens": [np.int64(150), np.float32(0.5), np.bool_(True)],
        "np dtype": np.dtype("f4"),
    }  # fmt: skip
    made = convert_all(pickle.dumps(value, protocol), isolated=protocol == 4)
    data = made.inputs[0].request_data
    ids = data.pop("ids")
    assert ids.dtype == np.int64
    assert ids.tolist() == [1, -2]
    assert data == {
        "set": [1, 2, 3], "frozen": ["a", "b"], "ordered": {"b": 1, "a": 2},
        "grouped": {"image": [1]}, "bytes": b"ab\xff", "size": (2, 3), "dtype": "torch.float16",
        "device": "cuda:1", "slice": (1, 5, None), "lens": [150, 0.5, True], "np dtype": "float32",
    }  # fmt: skip
    assert list(data["ordered"]) == ["b", "a"]
    assert {note.path for note in made.report.changed} >= {
        "$['set']", "$['frozen']", "$['ordered']", "$['grouped']", "$['size']", "$['dtype']",
        "$['device']", "$['slice']", "$['ids']", "$['lens'][0]", "$['np dtype']",
    }  # fmt: skip


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "CMYK", "I", "F", "I;16"])
def test_pillow_images_become_their_pixels(mode: str) -> None:
    pixels = np.random.default_rng(1).integers(0, 255, (5, 7, 3), np.uint8)
    image = Image.fromarray(pixels).convert(mode)
    made = convert(pickle.dumps([image]), isolated=False).request_data["value"][0]
    assert np.array_equal(made, np.asarray(image))
    assert made.dtype == np.asarray(image).dtype


def test_an_opened_image_and_one_with_a_palette() -> None:
    out = io.BytesIO()
    Image.new("RGB", (3, 2), (1, 2, 3)).save(out, "PNG")
    opened = Image.open(io.BytesIO(out.getvalue()))
    palette = Image.new("RGB", (3, 2), (1, 2, 3)).quantize(4)
    made = convert(pickle.dumps({"a": opened, "b": palette}), isolated=False).request_data
    assert made["a"].tolist() == [[[1, 2, 3]] * 3] * 2
    assert made["b"]["mode"] == "P"
    assert made["b"]["pixels"].shape == (2, 3)
    assert made["b"]["palette"][:3] == [1, 2, 3]


@pytest.mark.parametrize("value", [
    np.array(["a", "b"]), np.array([object()]), np.array(["2020"], "M8[Y]"),
    np.zeros(2, [("a", "i4")]),
], ids=["text", "objects", "dates", "fields"])  # fmt: skip
def test_arrays_without_a_dtype_of_the_wire_are_refused(value: Any) -> None:
    with pytest.raises((mm.DecodeError, mm.UnsafePickleError)):
        convert(pickle.dumps(value), isolated=False)
