"""A dictionary is found exactly where there is one, and nothing else is ever changed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mmformat.errors import ModelError
from mmformat.media import detect as code_map
from mmformat.media.detect import PixelLayout, find_dictionary
from mmformat.media.processors import processor_from_config
from mmformat.model import DictionaryTensor
from tests.support.photos import PHOTOS

PHOTO = PHOTOS["chelsea-360x240.png"]
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
DTYPES = ["float32", "bfloat16", "float16"]


def _bits(value: Any) -> bytes:
    if torch.is_tensor(value):
        return value.reshape(-1).view(torch.uint8).numpy().tobytes()
    return np.ascontiguousarray(value).tobytes()


def _pixels(kind: str, dtype: str) -> Any:
    processor = processor_from_config({"image_processor_type": f"{kind}ImageProcessor"})
    return processor(Image.open(PHOTO), encoding="plain", dtype=dtype).feature


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["Qwen2VL", "CLIP", "Siglip", "LlavaNext", "GotOcr2"])
def test_processed_pixels_are_found_with_and_without_hints(kind: str, dtype: str) -> None:
    pixels = _pixels(kind, dtype)
    mean, std = (0.5, 0.5) if kind == "Siglip" else (CLIP_MEAN, CLIP_STD)
    for hints in ({}, {"mean": mean, "std": std}, {"mean": (9.0, 9.0, 9.0), "std": 7.0}):
        found = find_dictionary(pixels, **hints)
        assert found is not None
        assert (found.dtype, found.shape) == (dtype, tuple(pixels.shape))
        assert torch.is_tensor(found.expand()) == torch.is_tensor(pixels)
        assert _bits(found.expand()) == _bits(pixels)


def test_a_hint_gives_the_codes_of_our_own_processor() -> None:
    processor = processor_from_config({"image_processor_type": "Qwen2VLImageProcessor"})
    made = processor(Image.open(PHOTO)).feature
    found = find_dictionary(made.expand(), mean=CLIP_MEAN, std=CLIP_STD)
    assert isinstance(found, DictionaryTensor)
    assert np.array_equal(found.codes.ravel(), made.codes.ravel())
    assert np.array_equal(found.table, made.table)


def test_a_still_is_stored_once_and_a_video_is_not() -> None:
    still = _pixels("Qwen2VL", "float32")
    found = find_dictionary(still)
    assert found is not None and found.repeat == 2
    assert found.spec.nbytes / found.nbytes > 7.9

    moving = still.reshape(-1, 3, 2, 196).copy()
    moving[:, :, 1] = moving[::-1, :, 0]
    moving = moving.reshape(still.shape)
    found = find_dictionary(moving)
    assert found is not None and found.repeat == 1
    assert _bits(found.expand()) == _bits(moving)

    still = still.copy()
    still[-1, 5] = still[-1, 4]  # one element, in the last patch
    found = find_dictionary(still)
    assert found is not None and found.repeat == 1
    assert _bits(found.expand()) == _bits(still)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(600, 1176), (1, 3, 99, 101), (512, 768), (300, 40, 3)])
def test_embeddings_are_turned_away(shape: tuple[int, ...], dtype: str) -> None:
    generator = torch.Generator().manual_seed(7)
    tensor = torch.randn(shape, generator=generator).to(getattr(torch, dtype))
    assert find_dictionary(tensor) is None
    assert find_dictionary(tensor, mean=CLIP_MEAN, std=CLIP_STD) is None


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_foreign_element_is_kept_or_the_tensor_is_turned_away(dtype: str) -> None:
    full = torch.arange(3 * 256 * 40).remainder(256).reshape(3, 256, 40)
    pixels = (full / 255).to(getattr(torch, dtype))
    if dtype == "float32":
        assert find_dictionary(pixels) is not None
        pixels[1, 255, 39] = 0.1234567
        assert find_dictionary(pixels) is None, "a 257th value in one channel"
    pixels = (full % 200 / 255).to(getattr(torch, dtype))
    pixels[1, 255, 39] = 0.1234567
    found = find_dictionary(pixels, mean=0.0, std=1.0)
    assert found is not None
    assert _bits(found.expand()) == _bits(pixels)


def test_nan_payloads_and_negative_zero_come_back_as_they_went() -> None:
    words = np.zeros((3, 64, 64), np.uint32)
    words[:, ::3] = np.float32(1.5).view(np.uint32)
    words[:, 5, 7] = 0x7FC00001
    words[:, 5, 8] = 0x7F800001
    words[:, 5, 9] = 0xFFC12345
    words[:, 5, 10] = 0x80000000
    words[0, 63, 63] = 0x00000001
    for tensor in (words.view(np.float32), torch.from_numpy(words.view(np.float32))):
        found = find_dictionary(tensor)
        assert found is not None
        assert _bits(found.expand()) == words.tobytes()


@pytest.mark.parametrize("word", [0, 1, 0x80000000])
def test_a_word_that_comes_to_an_empty_slot_is_not_taken_for_another(word: int) -> None:
    rng = np.random.default_rng(11)
    for place in rng.integers(0, 3 * 200 * 300, 12).tolist():
        pixels = np.array([0.5, -1.5, 2.5], np.float32)[rng.integers(0, 3, (3, 200, 300))]
        pixels.reshape(-1).view(np.uint32)[place] = word
        found = find_dictionary(pixels)
        assert found is not None
        assert _bits(found.expand()) == pixels.tobytes()


@given(
    values=st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=300, unique=True),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_bits_are_exact_or_not_at_all(values: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    words = rng.choice(np.array(values, np.uint32), 5_000)
    words[: len(values)] = values
    found = find_dictionary(words.view(np.float32))
    if len(values) > 256:
        assert found is None
    else:
        assert found is not None
        assert _bits(found.expand()) == words.tobytes()


@given(values=st.sets(st.integers(0, 2**16 - 1), min_size=1, max_size=300))
def test_any_16_bits_are_exact_or_not_at_all(values: set[int]) -> None:
    words = np.resize(np.array(sorted(values), np.uint16), 8_000)
    found = find_dictionary(words.view(np.float16))
    if len(values) > 256:
        assert found is None
    else:
        assert found is not None
        assert _bits(found.expand()) == words.tobytes()


def test_what_is_not_contiguous_is_found_in_its_own_order() -> None:
    pixels = _pixels("CLIP", "float32")
    for view in (pixels.transpose(0, 1, 3, 2), torch.from_numpy(pixels).transpose(2, 3)):
        found = find_dictionary(view)
        assert found is not None
        assert _bits(found.expand()) == _bits(view)


def test_channels_last_and_patches_of_interleaved_channels() -> None:
    bytes_ = np.asarray(Image.open(PHOTO).convert("RGB"))
    table = processor_from_config({"image_processor_type": "CLIPImageProcessor"})
    floats = table.normalization.table(3)[np.arange(3), bytes_]
    for shape in ((240, 360, 3), (1, 240, 360, 3), (240 * 360 // 256, 768)):
        pixels = np.ascontiguousarray(floats.reshape(-1)[: int(np.prod(shape))]).reshape(shape)
        found = find_dictionary(pixels)
        assert found is not None
        assert _bits(found.expand()) == _bits(pixels)


def test_a_layout_that_is_given_is_the_only_one_tried() -> None:
    pixels = _pixels("Qwen2VL", "float32")
    count = pixels.shape[0]
    right = PixelLayout(view=(count, 3, 2, 196), axis=1, repeat_axis=2)
    assert find_dictionary(pixels, layout=right) is not None
    assert find_dictionary(pixels, layout=PixelLayout(view=(count, 1176), axis=None)) is None
    assert find_dictionary(pixels, layout=PixelLayout(view=(count, 7), axis=0)) is None
    with pytest.raises(ModelError):
        PixelLayout(view=(4, 4), axis=2)


@pytest.mark.parametrize("dtype", [torch.float64, torch.int32, torch.uint8])
def test_other_dtypes_stay_plain(dtype: torch.dtype) -> None:
    assert find_dictionary(torch.zeros(10_000, dtype=dtype)) is None


def test_small_tensors_stay_plain_and_others_are_refused() -> None:
    assert find_dictionary(np.zeros(100, np.float32)) is None
    assert find_dictionary(np.zeros((0, 3), np.float32)) is None
    with pytest.raises(ModelError):
        find_dictionary([0.5] * 10_000)


def test_values_made_to_meet_in_every_hash_only_cost_the_dictionary() -> None:
    made = []
    for index, multiplier in enumerate(code_map._MULTIPLIERS):
        inverse = pow(int(multiplier), -1, 2**32)
        worker = (index + 1) << 16
        made += [inverse * worker % 2**32, inverse * (worker + 1) % 2**32]
    words = np.resize(np.array(made, np.uint32), 8_000)
    assert np.unique(words).size <= 256
    assert find_dictionary(words.view(np.float32)) is None
