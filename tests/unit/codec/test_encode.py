"""What cannot travel is refused by an error that names its path and a remedy."""

from __future__ import annotations

import enum
from collections import defaultdict, namedtuple
from typing import Any

import numpy as np
import pytest
import torch

from mmformat import Source
from mmformat.codec import decode, encode
from mmformat.errors import EncodeError
from mmformat.model import DictionaryTensor, MultimodalDataItem, MultimodalInputs

Point = namedtuple("Point", "x y")


class Sub(Point):
    pass


T = torch.ones(2, 2)


class Colour(enum.IntEnum):
    RED = 1


class Text(str):
    __slots__ = ()


def third_item(value: Any) -> MultimodalInputs:
    items = [MultimodalDataItem(modality="IMAGE") for _ in range(3)]
    items[2].model_specific_data["foo"] = value
    return MultimodalInputs(items=items)


REFUSED: dict[str, tuple[Any, str, str]] = {
    # value, part of the message, part of the hint
    "object": (object(), "builtins.object", "plain Python values"),
    "set": ({1}, "builtins.set", "plain Python values"),
    "function": (len, "builtin_function", "plain Python values"),
    "class": (int, "builtins.type", "plain Python values"),
    "slice": (slice(1), "builtins.slice", "plain Python values"),
    "int enum": (Colour.RED, "Colour", "int(value)"),
    "subclass of a namedtuple": (Sub(1, 2), "Sub", "tuple(value)"),
    "default dict": (defaultdict(int), "defaultdict", "dict(value)"),
    "memoryview": (memoryview(b"x"), "memoryview", "bytes(value)"),
    "text subclass": (Text("a"), "Text", "str(value)"),
    "datetime64": (np.datetime64("2024-01-01"), "datetime64", "plain Python values"),
    "numpy text": (np.str_("a"), "str_", "str(value)"),
    "huge int": (1 << 5000, "1,234 digits", ""),
    "big-endian": (np.ones(3, ">f4"), "dtype('>f4')", "newbyteorder('=')"),
    "objects": (np.array([None, 1]), "dtype('O')", "astype"),
    "text array": (np.array(["a"]), "dtype('<U1')", "astype"),
    "structured": (np.zeros(2, "i4,f4"), "[('f0'", "astype"),
    "dates": (np.zeros(2, "M8[s]"), "M8[s]", "astype"),
    "long double": (np.zeros(2, np.longdouble), "float128", "astype"),
    "masked": (np.ma.masked_array([1, 2], [0, 1]), "without a mask", "filled"),
    "sparse": (T.to_sparse(), "sparse", "to_dense"),
    "meta": (T.to("meta"), "on the CPU", "cpu()"),
}


@pytest.mark.parametrize(("value", "message", "hint"), REFUSED.values(), ids=REFUSED)
def test_a_value_that_cannot_travel_is_refused_by_its_path(
    value: Any, message: str, hint: str
) -> None:
    """Clauses: A-8."""
    with pytest.raises(EncodeError) as caught:
        encode(third_item(value))
    assert caught.value.path == "$.items[2].model_specific_data['foo']"
    assert str(caught.value).endswith(" - at $.items[2].model_specific_data['foo']")
    assert message.lower() in str(caught.value).lower()
    assert hint in (caught.value.hint or "")


@pytest.mark.filterwarnings("ignore:.*quantiz.*")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
def test_quantized_and_nested_tensors_are_refused() -> None:
    """Clauses: A-8."""
    quantized = torch.quantize_per_tensor(T, 0.1, 0, torch.quint8)
    nested = torch.nested.nested_tensor([torch.ones(1), torch.ones(2)])
    for value in (quantized, nested):
        with pytest.raises(EncodeError, match="foo"):
            encode(third_item(value))


def test_paths_go_as_deep_as_the_value() -> None:
    value = {"a": [1, ({2: [0, object()]},)]}
    with pytest.raises(EncodeError) as caught:
        encode(third_item(value))
    assert caught.value.path == "$.items[2].model_specific_data['foo']['a'][1][0][2][1]"


def test_request_data_and_features_have_paths_too() -> None:
    with pytest.raises(EncodeError) as caught:
        encode(MultimodalInputs(request_data={"x": [object()]}))
    assert caught.value.path == "$.request_data['x'][0]"
    item = MultimodalDataItem(modality="VIDEO", feature=[T, np.ones(1, ">f8")])
    with pytest.raises(EncodeError) as caught:
        encode(MultimodalInputs(items=[item]))
    assert caught.value.path == "$.items[0].feature[1]"


def test_a_source_is_refused_as_not_materialized() -> None:
    item = MultimodalDataItem(modality="IMAGE", feature=Source(b"\xff\xd8"))
    with pytest.raises(EncodeError) as caught:
        encode(MultimodalInputs(items=[item]))
    assert caught.value.code == "not-materialized"
    assert "materialize" in (caught.value.hint or "")
    assert caught.value.path == "$.items[0].feature"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("hash", 1.5),
        ("hash", True),
        pytest.param("hash", 10**1234, id="hash-1235-digits"),
        pytest.param("hash", 10**5000, id="hash-5000-digits"),
        ("pad_value", 1 << 63),
        ("pad_value", "1"),
        ("identity", b"ab"),
        ("identity", "\ud800"),
        ("offsets", [(1, 2, 3)]),
        ("offsets", [(1, 1 << 63)]),
        ("offsets", [("a", "b")]),
        ("offsets", 7),
        ("model_specific_data", [1]),
        ("model_specific_data", defaultdict(int)),
    ],
)
def test_fields_of_another_kind_are_refused(field: str, value: Any) -> None:
    item = MultimodalDataItem(modality="IMAGE")
    setattr(item, field, value)
    with pytest.raises(EncodeError) as caught:
        encode(MultimodalInputs(items=[item]))
    assert caught.value.path == f"$.items[0].{field}"


def test_other_arguments_are_refused() -> None:
    with pytest.raises(EncodeError, match="expected MultimodalInputs, got dict"):
        encode({"items": []})  # type: ignore[arg-type]


def test_keys_of_one_text_are_refused() -> None:
    """Two NaN keys are two keys in Python; their tensors would have one name."""
    value = {float("nan"): T, float("nan"): T + 1}
    with pytest.raises(EncodeError) as caught:
        encode(third_item(value))
    assert caught.value.code == "tensor-names"


def test_a_value_nested_without_end_is_refused() -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(EncodeError) as caught:
        encode(third_item(endless))
    assert caught.value.code == "attributes-depth"


def test_what_requires_a_gradient_is_detached() -> None:
    """Gradients do not travel; the values do, and the sender's tensor keeps its gradient."""
    parameter = torch.nn.Parameter(torch.randn(3, 4))
    hooked = (torch.randn(5, requires_grad=True) * 2).requires_grad_()
    out = decode(encode(MultimodalInputs(request_data={"p": parameter, "h": hooked}))).request_data
    assert type(out["p"]) is torch.Tensor
    assert not out["p"].requires_grad
    assert torch.equal(out["p"], parameter.detach())
    assert torch.equal(out["h"], hooked.detach())
    assert parameter.requires_grad


def test_lazy_conjugates_and_negatives_are_resolved() -> None:
    values = torch.randn(4, dtype=torch.complex64)
    conjugate, negative = values.conj(), values.conj().imag
    assert conjugate.is_conj()
    assert negative.is_neg()
    out = decode(encode(MultimodalInputs(request_data={"c": conjugate, "n": negative})))
    assert torch.equal(out.request_data["c"], conjugate.resolve_conj())
    assert torch.equal(out.request_data["n"], negative.resolve_neg())


def test_of_a_slice_only_its_own_elements_travel() -> None:
    """Clauses: X-6. Never the storage around them, and padding is zeros."""
    secret = b"correct horse battery staple"
    storage = torch.frombuffer(bytearray(secret * 40), dtype=torch.uint8)
    views = {
        "middle": storage[500:513],
        "strided": storage.view(-1, 28)[:, 3],
        "none": storage[7:7],
        "numpy": np.frombuffer(secret * 40, np.uint8)[100:115],
    }
    message = encode(MultimodalInputs(request_data=views))
    data = bytes(message)
    assert secret[:16] not in data
    assert secret[-16:] not in data
    assert len(data) < 5000
    out = decode(data).request_data
    for name, value in views.items():
        assert bytes(memoryview(np.asarray(out[name]))) == bytes(np.asarray(value).tobytes()), name


def test_tensors_of_one_storage_travel_apart() -> None:
    """Each as its view's bytes: a reader gets equal values that no longer share memory."""
    base = torch.arange(64, dtype=torch.float32)
    sent = {"base": base, "view": base[16:48], "again": base}
    out = decode(encode(MultimodalInputs(request_data=sent))).request_data
    for name, value in sent.items():
        assert torch.equal(out[name], value)


def test_a_dictionary_tensor_that_is_wrong_is_refused_by_its_path() -> None:
    table = np.ones((1, 2), np.float32)
    good = DictionaryTensor(np.zeros((1, 4), np.uint8), table)
    good.table = table.astype(">f4")
    with pytest.raises(EncodeError) as caught:
        encode(third_item([good]))
    assert caught.value.path == "$.items[2].model_specific_data['foo'][0]"
