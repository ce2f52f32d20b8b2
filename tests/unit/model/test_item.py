"""Items: an identity never outlives the values that it is of."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from mmformat.codec import decode, encode
from mmformat.errors import ModelError
from mmformat.model import (
    DictionaryTensor,
    InputFormat,
    Modality,
    MultimodalDataItem,
    MultimodalInputs,
)
from mmformat.model.identity import hash_of, identity_of, pad_value_of_hash


def frozen(**fields: Any) -> MultimodalDataItem:
    values: dict[str, Any] = {
        "feature": [torch.ones(8), DictionaryTensor(np.zeros((1, 9), np.uint8), np.ones((1, 2)))],
        "model_specific_data": {"t": np.zeros(64), "list": [1, {"x": (torch.ones(3), "y")}]},
    }
    item = MultimodalDataItem(modality="image", **{**values, **fields})
    item.identity = item.identity or identity_of(item)
    item.hash = item.hash or hash_of(item)
    item.pad_value = pad_value_of_hash(item.hash)
    item.freeze()
    return item


CHANGES = {
    "a value": lambda item: item.model_specific_data.update(t=np.ones(64)),
    "a new key": lambda item: item.model_specific_data.update(u=1),
    "a key less": lambda item: item.model_specific_data.pop("t"),
    "another order": lambda item: item.model_specific_data.update(
        t=item.model_specific_data.pop("t")
    ),
    "deep in it": lambda item: item.model_specific_data["list"][1].update(x=3),
    "a number": lambda item: item.model_specific_data["list"].__setitem__(0, True),
    "the list of features": lambda item: item.feature.reverse(),
    "one feature less": lambda item: item.feature.pop(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_frozen_item_changed_in_place_is_not_intact(change: str) -> None:
    item = frozen()
    assert item.is_intact
    before = str(item.identity), item.hash
    sent = decode(encode(MultimodalInputs(items=[item]))).items[0]
    assert (sent.identity, sent.hash) == before
    for _ in range(3):  # a template of it is made
        encode(MultimodalInputs(items=[item]))
    CHANGES[change](item)
    assert not item.is_intact
    if change != "another order":  # two dicts of one content are equal
        assert identity_of(item) != before[0]
        assert hash_of(item) != before[1]
    for _ in range(3):
        sent = decode(encode(MultimodalInputs(items=[item]))).items[0]
        assert (sent.identity, sent.hash, sent.pad_value) == (None, None, None)


def test_a_copy_with_other_content_has_no_identity() -> None:
    item = frozen()
    for changes in (
        {"feature": torch.ones(8)},
        {"modality": "VIDEO"},
        {"model_specific_data": {}},
        {"precomputed_embeddings": torch.ones(1)},
    ):
        other = replace(item, **changes)  # type: ignore[arg-type]
        assert (other.identity, other.hash, other.pad_value, other.frozen) == (None,) * 3 + (False,)
    same = replace(item, offsets=[(1, 2)])
    assert (same.identity, same.hash) == (item.identity, item.hash)
    same.feature = torch.zeros(8)
    same.freeze()
    assert same.identity is None
    assert not same.is_intact


def test_a_hash_of_the_callers_own_stays() -> None:
    other = replace(frozen(hash=77), feature=torch.ones(8))
    assert (other.identity, other.hash) == (None, 77)


def test_an_identity_of_the_callers_own_stays_until_the_content_changes() -> None:
    item = frozen(identity="theirs")
    assert item.is_intact
    assert identity_of(item) == "theirs"
    assert replace(item, feature=torch.ones(8)).identity is None
    assert replace(item, feature=torch.ones(8), identity="new").identity == "new"


def test_a_bytearray_may_change_without_a_trace() -> None:
    assert not frozen(model_specific_data={"b": bytearray(b"x")}).is_intact


def test_copies_and_pickles_of_a_frozen_item_are_not_recognized() -> None:
    item = frozen(feature=None)
    for other in (copy.deepcopy(item), pickle.loads(pickle.dumps(item))):
        assert other.identity == item.identity
        assert type(other.identity) is str
        assert not other.is_intact
    assert copy.copy(item).is_intact


def test_a_frozen_item_is_not_assigned_to() -> None:
    with pytest.raises(ModelError, match="frozen"):
        frozen().feature = None


@pytest.mark.parametrize("name", ["image", "IMAGE", "Image"])
def test_a_modality_is_found_in_any_case(name: str) -> None:
    assert Modality(name) is Modality.IMAGE
    assert MultimodalDataItem(modality=name).modality is Modality.IMAGE  # type: ignore[arg-type]
    assert InputFormat("Normal") is InputFormat.NORMAL


@pytest.mark.parametrize("wrong", ["picture", "", None, 3, b"IMAGE", "\u0130MAGE"])
def test_a_modality_that_is_none_is_named(wrong: Any) -> None:
    with pytest.raises(ModelError, match="IMAGE, MULTI_IMAGES, VIDEO, AUDIO"):
        Modality(wrong)
    with pytest.raises(ModelError):
        MultimodalDataItem(modality=wrong)
