"""Versions between the fixtures': fields that were renamed, enums that moved, vLLM's classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import mmformat as mm
from mmformat.legacy import convert_all

FOLDER = Path(__file__).parents[1] / "data" / "legacy" / "older"
FOUR = ["IMAGE", "MULTI_IMAGES", "VIDEO", "AUDIO"]
THREE = ["IMAGE", "VIDEO", "AUDIO"]
FOUR_VERSIONS = ("0.4.6", "0.4.9", "0.5.0rc2", "0.5.7", "0.5.9")
THREE_VERSIONS = ("0.5.10", "0.5.12", "0.5.16", "0.5.20")
FILES = sorted(FOLDER.glob("*.pkl"))


def convert_one(name: str, **options: str) -> mm.MultimodalInputs:
    (path,) = FOLDER.glob(f"{name}.p?.pkl")
    (inputs,) = convert_all(path, library="numpy", isolated=False, **options).inputs
    return inputs


def test_the_files_are_there() -> None:
    assert len(FILES) == 30


@pytest.mark.parametrize("form", ["inputs", "output", "dict"])
@pytest.mark.parametrize("version", [*FOUR_VERSIONS, *THREE_VERSIONS])
def test_modalities_mean_what_the_writing_version_meant(version: str, form: str) -> None:
    """Value 2 is several images until 0.5.9 and a video from 0.5.10 on, under one class path."""
    if form == "output" and version not in THREE_VERSIONS:
        pytest.skip("MultimodalProcessorOutput came with 0.5.10")
    ambiguous = form == "dict" and version in ("0.5.10", "0.5.12", "0.5.16")
    if ambiguous:
        with pytest.raises(mm.DecodeError) as caught:
            convert_one(f"sglang-{version}-{form}")
        assert caught.value.code == "ambiguous-modality"
        assert caught.value.path == "$['mm_items'][1].modality"
        inputs = convert_one(f"sglang-{version}-{form}", sglang_version=version)
    else:
        inputs = convert_one(f"sglang-{version}-{form}")
    names = FOUR if version in FOUR_VERSIONS else THREE
    assert [item.modality.name for item in inputs.items] == names
    for value, item in enumerate(inputs.items, 1):
        assert item.hash == value * 1_000 + 2**63
        assert item.pad_value == value
        assert isinstance(item.feature, np.ndarray)
        assert np.array_equal(item.feature, np.arange(6.0).reshape(2, 3) * value)
    assert inputs.request_data["im_token_id"] == 11


@pytest.mark.parametrize("version", ["0.4.6", "0.4.9"])
def test_fields_of_0_4_have_their_place(version: str) -> None:
    """pixel_values and audio_features are the feature; image_offsets are the offsets."""
    items = convert_one(f"sglang-{version}-inputs").items
    assert items[0].offsets == [(1, 9)]
    assert items[0].model_specific_data == {"image_sizes": (4, 5)}
    assert list(items[3].model_specific_data) == ["audio_feature_lens"]


@pytest.mark.parametrize("version", ["0.5.7", "0.5.9", "0.5.10", "0.5.20"])
def test_formats(version: str) -> None:
    items = convert_one(f"sglang-{version}-inputs").items
    assert {item.format for item in items} == {mm.InputFormat.PROCESSOR_OUTPUT}


@pytest.mark.parametrize("form", ["inputs", "dict"])
@pytest.mark.parametrize("version", ["0.4.0", "0.4.4"])
def test_image_inputs_are_one_item(version: str, form: str) -> None:
    (item,) = convert_one(f"sglang-{version}-{form}").items
    assert item.modality is mm.Modality.IMAGE
    assert (item.hash, item.offsets) == (7, [(1, 4)])
    assert item.model_specific_data["image_grid_thws"] == [(1, 2, 3)]


def test_a_wrong_version_text_is_refused() -> None:
    with pytest.raises(mm.ModelError):
        convert_one("sglang-0.5.10-dict", sglang_version="newest")


def test_a_version_does_not_overrule_what_the_file_shows() -> None:
    inputs = convert_one("sglang-0.5.10-inputs", sglang_version="0.5.5")
    assert [item.modality.name for item in inputs.items] == THREE


def test_vllm_items() -> None:
    inputs = convert_one("vllm-0.33.0-items")
    assert [item.modality.name for item in inputs.items] == ["IMAGE", "IMAGE", "AUDIO"]
    first, second, audio = inputs.items
    assert np.array_equal(first.feature, np.arange(6.0).reshape(2, 3))
    assert second.feature is first.feature
    assert first.model_specific_data["image_grid_thw"].tolist() == [1, 2, 3]
    assert first.model_specific_data["vllm_fields"] == {
        "pixel_values": {
            "kind": "flat",
            "keep_on_cpu": False,
            "slices": [(0, 2, None), (2, 5, None)],
            "dim": 0,
        },
        "image_grid_thw": {"kind": "batched", "keep_on_cpu": True},
    }
    assert audio.feature.dtype.name == "bfloat16"


def test_vllm_features() -> None:
    image, cached = convert_one("vllm-0.33.0-features").items
    assert (image.identity, image.offsets) == ("id-1", [(4, 6)])
    assert image.model_specific_data["mm_hash"] == "hash-1"
    assert image.model_specific_data["is_embed"].tolist() == [True, False, True]
    assert (cached.modality, cached.identity, cached.offsets) == ("VIDEO", "id-2", [(9, 9)])
    assert cached.feature is None


def test_vllm_range() -> None:
    value = convert_one("vllm-0.33.0-range").request_data["value"]
    assert (value["offset"], value["length"]) == (4, 3)
    assert value["is_embed"].tolist() == [True, False, True]
