"""SGLang's real classes through the bytes of a message, field by field."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings

import mmformat as mm
from mmformat.adapters.sglang import from_mmformat, to_mmformat
from mmformat.adapters.sglang.fields import defaults_of
from mmformat.model.identity import pad_values_of_hash
from tests.integration.engines.real import module, needs
from tests.integration.engines.sameness import difference

needs("sglang")

schedule = module("sglang.srt.managers.schedule_batch")
NEWER = hasattr(schedule, "MultimodalProcessorOutput")
CONTAINERS = [schedule.MultimodalInputs]
if NEWER:
    CONTAINERS.append(schedule.MultimodalProcessorOutput)

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.uint8, torch.int64, torch.bool]


@st.composite
def tensors(draw: Any) -> Any:
    shape = draw(st.lists(st.integers(0, 4), max_size=3).map(tuple))
    seed = draw(st.integers(0, 2**32 - 1))
    if draw(st.booleans()):
        array = np.random.default_rng(seed).integers(0, 255, shape)
        return array.astype(draw(st.sampled_from(["float32", "uint8", "int64", "float16"])))
    generator = torch.Generator().manual_seed(seed)
    tensor = torch.randint(0, 2, shape, generator=generator).to(draw(st.sampled_from(DTYPES)))
    return tensor.T.contiguous().T if tensor.ndim == 2 else tensor


scalars = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.text(max_size=5)
scalars |= st.floats(allow_nan=True) | st.binary(max_size=5)
names = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=12)
names |= st.sampled_from(["image_grid_thw", "hash", "pad_values", "feature", "mm_item.x", "$a"])
values = st.recursive(
    scalars | tensors(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(names, inner, max_size=3)
    ),
    max_leaves=6,
)
data = st.dictionaries(
    names.filter(lambda name: not name.startswith("sglang.")), values, max_size=4
)
features = st.none() | tensors() | st.lists(tensors(), min_size=1, max_size=3)
ranges = st.none() | st.lists(st.tuples(st.integers(0, 99), st.integers(0, 99)), max_size=3)
ranges |= st.lists(st.lists(st.integers(0, 99), min_size=2, max_size=2), min_size=1, max_size=2)
hashes = st.none() | (st.integers(0, 2**64 - 1) if NEWER else st.integers(-(2**80), 2**80))

FIELDS: dict[str, Any] = {
    "modality": st.sampled_from(list(schedule.Modality)),
    "hash": hashes,
    "pad_value": st.none() | st.integers(0, 2**62),
    "offsets": ranges,
    "feature": features,
    "precomputed_embeddings": features,
    "model_specific_data": data,
}
if NEWER:
    FIELDS |= {
        "format": st.sampled_from(list(schedule.MultimodalInputFormat)),
        "keep_device_embedding": st.booleans(),
        "identity": st.none() | st.binary(min_size=32, max_size=32),
        "pad_values": st.none() | st.tuples(*[st.integers(0, 2**62)] * 4),
    }
items = st.fixed_dictionaries({}, optional={k: v for k, v in FIELDS.items() if k != "modality"})


@st.composite
def engine_items(draw: Any) -> Any:
    return schedule.MultimodalDataItem(modality=draw(FIELDS["modality"]), **draw(items))


@st.composite
def containers(draw: Any, cls: Any) -> Any:
    chosen = draw(
        st.lists(st.sampled_from(sorted(set(defaults_of(cls)) - {"mm_items"})), unique=True)
    )
    fields = {name: draw(values) for name in chosen}
    return cls(mm_items=draw(st.lists(engine_items(), max_size=3)), **fields)


def through_bytes(obj: Any) -> mm.MultimodalInputs:
    return mm.decode(bytes(mm.encode(to_mmformat(obj))))


def test_every_field_of_the_item_is_drawn() -> None:
    """A field that a new version adds must be added to this test."""
    assert set(FIELDS) == set(defaults_of(schedule.MultimodalDataItem))


@settings(max_examples=150)
@given(engine_items())
def test_an_item_comes_back_as_it_went(item: Any) -> None:
    back = from_mmformat(through_bytes(item), schedule.MultimodalDataItem)
    assert difference(item, back) is None


@pytest.mark.parametrize("cls", CONTAINERS, ids=lambda cls: cls.__name__)
def test_a_container_comes_back_as_it_went(cls: Any) -> None:
    @settings(max_examples=100)
    @given(containers(cls))
    def check(container: Any) -> None:
        assert difference(container, from_mmformat(through_bytes(container), cls)) is None

    check()


@settings(max_examples=100)
@given(st.lists(engine_items(), max_size=2), data)
def test_the_dict_form_comes_back_as_it_went(made: list[Any], extra: dict[str, Any]) -> None:
    extra.pop("mm_items", None)
    form = {"mm_items": made, **extra}
    assert difference(form, from_mmformat(through_bytes(form), dict)) is None


def test_attributes_that_a_model_added_come_back() -> None:
    inputs = schedule.MultimodalInputs(mm_items=[])
    inputs.visual_pos_masks = torch.ones(3, dtype=torch.bool)
    back = from_mmformat(through_bytes(inputs), schedule.MultimodalInputs)
    assert torch.equal(back.visual_pos_masks, inputs.visual_pos_masks)


def test_enums_travel_by_name() -> None:
    for member in schedule.Modality:
        item = schedule.MultimodalDataItem(modality=member)
        assert to_mmformat(item).items[0].modality.name == member.name


def test_several_images_of_one_item_survive_a_version_without_that_member() -> None:
    item = mm.MultimodalDataItem(modality="MULTI_IMAGES")
    made = from_mmformat(mm.MultimodalInputs(items=[item]), schedule.MultimodalDataItem)
    assert made.is_image()
    assert to_mmformat(made).items[0].modality is mm.Modality.MULTI_IMAGES


def test_what_mmformat_materialized_has_the_pad_values_of_the_engine() -> None:
    """The engine's own rule, run on the engine's own item, gives the same numbers."""
    number = 0xFEDCBA9876543210
    rule = "sglang-0.5.23" if NEWER else "sglang-0.5.5"
    ours = mm.MultimodalDataItem(
        modality="IMAGE",
        feature=torch.ones(4),
        hash=number,
        pad_value=pad_values_of_hash(number, rule=rule)[0],
    )
    made = from_mmformat(mm.MultimodalInputs(items=[ours]), schedule.MultimodalDataItem)
    theirs = schedule.MultimodalDataItem(modality=made.modality, feature=torch.ones(4), hash=number)
    theirs.set_pad_value()
    assert (made.hash, made.pad_value) == (theirs.hash, theirs.pad_value)
    if NEWER:
        assert made.padding_values() == theirs.padding_values()
        assert len(made.pad_values) == 4


def test_the_tensors_are_the_engines_own() -> None:
    item = schedule.MultimodalDataItem(modality=schedule.Modality.IMAGE, feature=torch.ones(9))
    assert to_mmformat(item).items[0].feature.data_ptr() == item.feature.data_ptr()


def test_a_transport_proxy_keeps_its_attributes() -> None:
    proxy = module("sglang.srt.managers.mm_utils").TransportProxyTensor
    feature = proxy(torch.arange(6.0), name="pixel_values", fields={"a": 1})
    item = schedule.MultimodalDataItem(modality=schedule.Modality.IMAGE, feature=feature)
    back = from_mmformat(through_bytes(item), schedule.MultimodalDataItem)
    assert type(back.feature) is proxy
    assert (back.feature.name, back.feature.fields) == ("pixel_values", {"a": 1})
    assert torch.equal(back.feature.as_subclass(torch.Tensor), torch.arange(6.0))
    assert back.model_specific_data == {}


def test_another_object_is_refused() -> None:
    with pytest.raises(mm.ModelError, match="expected SGLang's multimodal inputs, got object"):
        to_mmformat(object())
    with pytest.raises(mm.ModelError, match="expected dict or a class of"):
        from_mmformat(mm.MultimodalInputs(), int)
    with pytest.raises(mm.ModelError, match="inputs of one item"):
        from_mmformat(mm.MultimodalInputs(), schedule.MultimodalDataItem)
