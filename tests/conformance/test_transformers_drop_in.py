"""A transformers image processor that computes here returns what the original returns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import mmformat as mm
from mmformat.adapters.transformers import drop_in, install, uninstall
from mmformat.media.processors import KNOWN_PROCESSORS
from tests.conformance.test_transformers_equal import BACKENDS, CONFIGS, IMAGES, _class

SAME = ["coffee-600x400.jpg", "crop-97x41"]
SOME = ["chelsea-360x240.png", "crop-111x222", "mode-L"]


def _made(config: str, backend: str) -> Any:
    cls, values = CONFIGS[config]
    bare = {name: value for name, value in values.items() if name != "image_processor_type"}
    return _class(cls, backend)(**bare)


def _same(theirs: Any, ours: Any) -> None:
    assert type(ours) is type(theirs)
    assert list(ours) == list(theirs)
    for name, value in theirs.items():
        mine = ours[name]
        assert type(mine) is type(value), name
        if isinstance(value, list):
            assert len(mine) == len(value)
            for left, right in zip(mine, value, strict=True):
                _same_tensor(left, right)
        else:
            _same_tensor(mine, value)


def _same_tensor(mine: Any, value: Any) -> None:
    if not isinstance(value, (np.ndarray, torch.Tensor)):
        assert (tuple(mine) if isinstance(mine, list) else mine) == value
        return
    assert type(mine) is type(value)
    assert mine.dtype == value.dtype
    assert mine.shape == value.shape
    assert np.asarray(mine).tobytes() == np.asarray(value).tobytes()


@pytest.mark.parametrize("return_tensors", ["pt", "np"])
@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_batches_are_equal(backend: str, config: str, return_tensors: str) -> None:
    theirs = _made(config, backend)
    ours = drop_in(_made(config, backend))
    assert isinstance(ours, type(theirs))
    for names in ([SOME[0]], SOME):
        images = [IMAGES[name]() for name in names]
        _same(
            theirs(images, return_tensors=return_tensors),
            ours(images, return_tensors=return_tensors),
        )


@pytest.mark.parametrize("config", ["qwen2-vl", "clip-224", "llava-next", "internvl"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_arguments_of_a_call_count(backend: str, config: str) -> None:
    theirs, ours = _made(config, backend), drop_in(_made(config, backend))
    image = IMAGES["coffee-600x400.jpg"]()
    cases: list[dict[str, Any]] = [
        {"do_normalize": False},
        {"resample": 2},
        {"image_mean": [0.1, 0.2, 0.3]},
    ]
    for values in cases:
        _same(
            theirs(image, return_tensors="pt", **values), ours(image, return_tensors="pt", **values)
        )


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_is_no_pillow_image_goes_to_the_original(backend: str) -> None:
    theirs, ours = _made("clip-224", backend), drop_in(_made("clip-224", backend))
    array = np.array(IMAGES["coffee-600x400.jpg"]())
    _same(theirs(array, return_tensors="pt"), ours(array, return_tensors="pt"))
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    _same(theirs(tensor, return_tensors="pt"), ours(tensor, return_tensors="pt"))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_saved_one_is_loaded_as_the_original(backend: str, tmp_path: Path) -> None:
    theirs = _made("qwen3-vl", backend)
    ours = drop_in(_made("qwen3-vl", backend))
    assert ours.to_dict() == theirs.to_dict()
    ours.save_pretrained(tmp_path)
    again = type(theirs).from_pretrained(tmp_path)
    image = IMAGES["coffee-600x400.jpg"]()
    _same(again(image, return_tensors="pt"), ours(image, return_tensors="pt"))


@pytest.mark.parametrize("config", ["qwen2-vl", "clip-224", "internvl"])
def test_a_dictionary_tensor_expands_to_the_same(config: str) -> None:
    theirs, ours = _made(config, "pil"), drop_in(_made(config, "pil"), encoding="dictionary")
    images = [IMAGES[name]() for name in SOME]
    feature = ours(images, return_tensors="np")["pixel_values"]
    assert isinstance(feature, mm.DictionaryTensor)
    _same_tensor(feature.expand(), theirs(images, return_tensors="np")["pixel_values"])


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_class_is_changed_and_changed_back(backend: str) -> None:
    cls = _class("siglip.SiglipImageProcessor", backend)
    original = cls._preprocess_image_like_inputs
    expected = cls()(IMAGES["coffee-600x400.jpg"](), return_tensors="pt")
    install(cls)
    try:
        assert cls._preprocess_image_like_inputs is not original
        _same(expected, cls()(IMAGES["coffee-600x400.jpg"](), return_tensors="pt"))
        install(cls, dtype="bfloat16")
        cast = cls()(IMAGES["coffee-600x400.jpg"](), return_tensors="pt")["pixel_values"]
        assert torch.equal(cast, expected["pixel_values"].to(torch.bfloat16))
    finally:
        uninstall(cls)
    assert cls._preprocess_image_like_inputs is original


def test_an_unknown_class_is_refused() -> None:
    with pytest.raises(mm.ModelError, match="got int"):
        drop_in(3)
    with pytest.raises(mm.ModelError, match="got str"):
        install(_class("clip.CLIPImageProcessor", "pil"), str)
    assert "CLIPImageProcessor" in KNOWN_PROCESSORS
