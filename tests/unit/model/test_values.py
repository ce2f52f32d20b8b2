"""What a message carries: one definition, held for encode, identity and materialize alike."""

from __future__ import annotations

import enum
import time
from collections import Counter, OrderedDict, defaultdict, namedtuple
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from mmformat.codec import decode, encode
from mmformat.errors import EncodeError, MaterializeError, MMFormatError, ModelError
from mmformat.media import materialize
from mmformat.model import (
    DictionaryTensor,
    Modality,
    MultimodalDataItem,
    MultimodalInputs,
    Source,
)
from mmformat.model.identity import identity_of
from mmformat.model.values import check_values, kind_of
from mmformat.testing.equality import twin_of

Point = namedtuple("Point", "x y")


class Pair(NamedTuple):
    left: int
    right: Any


class Colour(enum.IntEnum):
    RED = 1


class Text(str):
    __slots__ = ()


CARRIED: dict[str, tuple[Any, Any]] = {
    "OrderedDict": (OrderedDict(b=1, a=[2]), {"b": 1, "a": [2]}),
    "namedtuple": (Point(1, "y"), (1, "y")),
    "NamedTuple": (Pair(1, OrderedDict(x=Point(1, 2))), (1, {"x": (1, 2)})),
    "torch.Size": (torch.Size([2, 3]), (2, 3)),
    "complex": (1 + 2j, 1 + 2j),
    "bytearray": (bytearray(b"x"), bytearray(b"x")),
    "scalar": (np.float16(2.5), np.float16(2.5)),
    "bool scalar": (np.True_, np.True_),
    "dict with tuple keys": ({(1, 2): 3}, {(1, 2): 3}),
    "tensor": (torch.ones(3), torch.ones(3)),
    "None": (None, None),
}
REFUSED: dict[str, Any] = {
    "Modality": Modality.IMAGE,
    "IntEnum": Colour.RED,
    "str subclass": Text("x"),
    "memoryview": memoryview(b"x"),
    "defaultdict": defaultdict(int),
    "Counter": Counter("a"),
    "set": {1},
    "range": range(3),
    "object": object(),
    "datetime64": np.datetime64("2024-01-01"),
    "structured array": np.zeros(2, "i4,f4"),
    "masked array": np.ma.masked_array([1, 2], [True, False]),
}


def encoded(value: Any) -> None:
    encode(MultimodalInputs(request_data={"a": [value]}))


def identified(value: Any) -> None:
    identity_of(MultimodalDataItem(modality="IMAGE", model_specific_data={"a": [value]}))


def materialized(value: Any) -> None:
    item = MultimodalDataItem(modality="IMAGE", model_specific_data={"a": [value]})
    materialize(MultimodalInputs(items=[item]))


def materialized_with_identity(value: Any) -> None:
    item = MultimodalDataItem(
        modality="IMAGE", model_specific_data={"a": [value]}, identity="x", hash=1
    )
    materialize(MultimodalInputs(items=[item]))


VERBS: dict[Callable[[Any], None], type[MMFormatError]] = {
    encoded: EncodeError,
    identified: ModelError,
    materialized: MaterializeError,
}


@pytest.mark.parametrize("name", CARRIED)
def test_what_is_carried_is_carried_by_every_verb(name: str) -> None:
    value, plain = CARRIED[name]
    assert kind_of(value) is not None
    check_values(value, path="$")
    for verb in (*VERBS, materialized_with_identity):
        verb(value)
    for _ in range(4):
        sent = MultimodalInputs(request_data={"a": value})
        found = decode(encode(sent)).request_data
        assert twin_of(MultimodalInputs(request_data=found)) == twin_of(
            MultimodalInputs(request_data={"a": plain})
        )


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_is_refused_by_every_verb(name: str) -> None:
    for verb, error in VERBS.items():
        with pytest.raises(error) as caught:
            verb(REFUSED[name])
        assert "0x" not in str(caught.value)
    if kind_of(REFUSED[name]) is None:
        with pytest.raises(MaterializeError):
            materialized_with_identity(REFUSED[name])


def test_an_ordered_dict_is_model_specific_data() -> None:
    data = OrderedDict(b=1, a=2)
    item = MultimodalDataItem(modality="IMAGE", model_specific_data=data)
    out = decode(encode(MultimodalInputs(items=[item], request_data=data)))
    assert list(out.items[0].model_specific_data.items()) == list(data.items())
    assert list(out.request_data.items()) == list(data.items())
    plain = MultimodalDataItem(modality="IMAGE", model_specific_data=dict(data))
    assert identity_of(item) == identity_of(plain)


def test_the_identity_of_numbers_differs_by_their_kind() -> None:
    found = {
        identity_of(MultimodalDataItem(modality="IMAGE", model_specific_data={"a": value}))
        for value in (1, 1.0, 1 + 0j, True, "1", b"1", (1,), [1], np.int64(1), np.int32(1))
    }
    assert len(found) == 10


def cycle() -> Any:
    value: list[Any] = []
    value.append(value)
    return value


def dict_cycle() -> Any:
    value: dict[str, Any] = {}
    value["a"] = (1, value)
    return value


def shared(times: int = 60) -> Any:
    value: Any = [1]
    for _ in range(times):
        value = [value, value]
    return value


def shared_dict() -> Any:
    value: Any = {"x": 1}
    for _ in range(60):
        value = {"a": value, "b": value}
    return value


def deep() -> Any:
    value: Any = 1
    for _ in range(100_000):
        value = [value]
    return value


def wide() -> Any:
    return [0] * 3_000_000


ENDLESS = (cycle, dict_cycle, shared, shared_dict, deep, wide)


@pytest.mark.parametrize("make", ENDLESS, ids=lambda make: make.__name__)
@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.__name__)
def test_values_without_end_are_refused_at_once(
    make: Callable[[], Any], verb: Callable[[Any], None]
) -> None:
    value = make()
    start_s = time.process_time()
    with pytest.raises(VERBS[verb], match="a message cannot carry") as caught:
        verb(value)
    assert time.process_time() - start_s < 5  # half a second on an idle core
    assert len(caught.value.path or "") < 100
    while type(value) is list and value and type(value[0]) is list and value[0] is not value:
        value = value[0]  # a chain of 100,000 lists must not be freed recursively


def test_a_feature_that_holds_itself_is_refused() -> None:
    item = MultimodalDataItem(modality="IMAGE", feature=cycle())
    for verb in (encode, materialize):
        with pytest.raises((EncodeError, MaterializeError), match="nested more than"):
            verb(MultimodalInputs(items=[item]))


def test_a_source_is_named() -> None:
    with pytest.raises(EncodeError, match="cannot carry") as caught:
        encoded(Source(b"x"))
    assert caught.value.code == "not-materialized"
    assert "materialize" in (caught.value.hint or "")


def test_a_pad_value_out_of_range_is_named() -> None:
    for value in (2**70, -(2**63) - 1):
        item = MultimodalDataItem(modality="IMAGE", pad_value=value)
        with pytest.raises(EncodeError, match=str(value)) as caught:
            encode(MultimodalInputs(items=[item]))
        assert caught.value.path == "$.items[0].pad_value"
        assert str(2**63 - 1) in str(caught.value)


def test_dictionary_tensors_are_carried() -> None:
    value = DictionaryTensor(np.zeros((1, 4), np.uint8), np.ones((1, 2), np.float32))
    assert kind_of(value) == "dictionary"
    check_values({"a": [value]}, path="$")
