"""What transformers' own processors return becomes items, and comes back bit for bit."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what transformers says about itself while it is imported
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
    from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
    from transformers.models.llava_next.image_processing_pil_llava_next import (
        LlavaNextImageProcessorPil,
    )
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
    from transformers.models.whisper.feature_extraction_whisper import WhisperFeatureExtractor

import mmformat as mm
from mmformat.adapters.transformers import to_mmformat, to_transformers
from mmformat.errors import ModelError
from mmformat.media.processors import processor_from_config
from mmformat.model import DictionaryTensor, Modality
from tests.support.photos import PHOTOS

NAMES = ["chelsea-360x240.png", "astronaut-face-224.png", "coffee-600x400.jpg"]


def _images() -> list[Image.Image]:
    return [Image.open(PHOTOS[name]).convert("RGB") for name in NAMES]


def _bits(value: Any) -> tuple[Any, ...]:
    array = np.asarray(value)
    return str(array.dtype), array.shape, array.tobytes()


def _fits(tiles: np.ndarray) -> bool:
    return all(np.unique(tiles[:, channel].view(np.uint32)).size <= 256 for channel in range(3))


PROCESSORS = {
    "qwen": (Qwen2VLImageProcessorPil(), 3),
    "clip": (CLIPImageProcessorPil(), 3),
    "llava-next": (LlavaNextImageProcessorPil(), 3),
    "internvl": (
        GotOcr2ImageProcessorPil(crop_to_patches=True, size={"height": 96, "width": 96}),
        3,
    ),
}


@pytest.mark.parametrize("tensors", ["pt", "np"])
@pytest.mark.parametrize("name", PROCESSORS)
def test_a_batch_is_split_encoded_and_comes_back(name: str, tensors: str) -> None:
    processor, count = PROCESSORS[name]
    batch = processor(_images(), return_tensors=tensors)

    inputs = to_mmformat(batch, image_processor=processor)

    assert len(inputs.items) == count
    assert {item.modality for item in inputs.items} == {Modality.IMAGE}
    for index, item in enumerate(inputs.items):
        # LLaVA-NeXT fills a batch up with tiles of 0.0, which no byte of CLIP's table becomes.
        fits = name != "llava-next" or _fits(np.asarray(batch["pixel_values"][index]))
        assert isinstance(item.feature, DictionaryTensor) == fits
    back = to_transformers(inputs)
    assert back.keys() == dict(batch).keys()
    assert {key: _bits(value) for key, value in back.items()} == {
        key: _bits(value) for key, value in batch.items()
    }
    assert torch.is_tensor(back["pixel_values"]) == (tensors == "pt")


def test_items_are_what_our_own_processor_makes_of_each_image() -> None:
    theirs = Qwen2VLImageProcessorPil()
    ours = processor_from_config({"image_processor_type": "Qwen2VLImageProcessor"})
    inputs = to_mmformat(theirs(_images(), return_tensors="np"), image_processor=theirs)
    for item, image in zip(inputs.items, _images(), strict=True):
        made = ours(image)
        assert np.array_equal(item.feature.codes.ravel(), made.feature.codes.ravel())
        assert np.array_equal(item.feature.table, made.feature.table)
        grid = item.model_specific_data["image_grid_thw"]
        assert np.array_equal(grid, made.model_specific_data["image_grid_thw"])


def test_a_patch_edge_of_no_known_model_is_found_through_the_processor() -> None:
    theirs = Qwen2VLImageProcessorPil(patch_size=12)
    batch = theirs(_images()[:1], return_tensors="pt")
    assert not isinstance(to_mmformat(batch).items[0].feature, DictionaryTensor)
    item = to_mmformat(batch, image_processor=theirs).items[0]
    assert isinstance(item.feature, DictionaryTensor) and item.feature.repeat == 2
    assert torch.equal(item.feature.expand(), batch["pixel_values"])


def test_lists_of_a_processor_without_return_tensors() -> None:
    batch = CLIPImageProcessorPil()(_images())
    assert isinstance(batch["pixel_values"], list)
    items = to_mmformat(batch).items
    for item, expected in zip(items, batch["pixel_values"], strict=True):
        assert _bits(item.feature.expand()) == _bits(expected[None])

    tiled = PROCESSORS["internvl"][0](_images())
    counts = [item.feature.shape[0] for item in to_mmformat(tiled).items]
    assert counts == tiled["num_patches"]


def test_plain_features_are_views_of_the_batch() -> None:
    batch = Qwen2VLImageProcessorPil()(_images(), return_tensors="pt")
    items = to_mmformat(batch, dictionary="never").items
    storage = batch["pixel_values"].untyped_storage().data_ptr()
    assert all(item.feature.untyped_storage().data_ptr() == storage for item in items)


def test_embeddings_under_the_name_of_pixels_stay_plain() -> None:
    values = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(3))
    items = to_mmformat({"pixel_values": values}).items
    assert [torch.equal(item.feature[0], values[i]) for i, item in enumerate(items)] == [True] * 4


def test_audio_and_text_find_their_places() -> None:
    wave = np.sin(np.arange(16_000) / 9).astype(np.float32)
    batch = dict(
        WhisperFeatureExtractor()(
            [wave, wave[::-1]],
            sampling_rate=16_000,
            return_tensors="np",
            return_attention_mask=True,
        )
    )
    batch["input_ids"] = np.arange(12).reshape(2, 6)
    inputs = to_mmformat(batch)
    assert [item.modality for item in inputs.items] == [Modality.AUDIO] * 2
    assert inputs.items[1].feature.shape == (1, 80, 3000)
    assert set(inputs.request_data) == {"input_ids", "attention_mask"}
    assert _bits(to_transformers(inputs)["input_features"]) == _bits(batch["input_features"])


def test_images_and_videos_of_one_batch() -> None:
    processor = Qwen2VLImageProcessorPil()
    image = processor(_images()[:2], return_tensors="pt")
    frames = image["pixel_values"][: int(image["image_grid_thw"][0].prod())]
    batch = {
        **image,
        "pixel_values_videos": torch.cat([frames, frames]),
        "video_grid_thw": image["image_grid_thw"][:1] * torch.tensor([[2, 1, 1]]),
        "second_per_grid_ts": [0.5],
    }
    inputs = to_mmformat(batch)
    assert [item.modality.value for item in inputs.items] == ["IMAGE", "IMAGE", "VIDEO"]
    assert inputs.items[2].model_specific_data["second_per_grid_ts"] == [0.5]
    back = to_transformers(inputs)
    assert torch.equal(back["pixel_values_videos"], batch["pixel_values_videos"])


def test_all_images_in_one_item() -> None:
    batch = Qwen2VLImageProcessorPil()(_images(), return_tensors="pt")
    (item,) = to_mmformat(batch, modality=Modality.MULTI_IMAGES).items
    assert torch.equal(item.feature.expand(), batch["pixel_values"])
    assert torch.equal(item.model_specific_data["image_grid_thw"], batch["image_grid_thw"])


def test_a_message_carries_them() -> None:
    batch = Qwen2VLImageProcessorPil()(_images(), return_tensors="pt")
    message = mm.encode(to_mmformat({**batch, "input_ids": torch.arange(5)[None]}))
    assert batch["pixel_values"].nbytes / message.nbytes > 7.7  # three small images, three tables
    back = to_transformers(mm.decode(bytes(message)))
    assert torch.equal(torch.as_tensor(back["pixel_values"]), batch["pixel_values"])
    assert torch.equal(torch.as_tensor(back["input_ids"]), torch.arange(5)[None])


def test_contradictions_are_refused() -> None:
    with pytest.raises(ModelError, match=r"expected 4 rows"):
        to_mmformat({"pixel_values": np.zeros((5, 8)), "image_grid_thw": np.array([[1, 2, 2]])})
    with pytest.raises(ModelError, match="auto"):
        to_mmformat({}, dictionary="always")  # type: ignore[arg-type]
    with pytest.raises(ModelError):
        to_mmformat({"pixel_values": "no tensor"})
