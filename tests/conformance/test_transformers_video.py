"""The video processors beside transformers' own, which need torchvision: equal bit for bit."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

import mmformat as mm
from mmformat.media import open_video
from mmformat.media.video_processors import Qwen3VLVideoProcessor, QwenVLVideoProcessor
from tests.conformance.test_transformers_equal import HAS_TORCHVISION
from tests.support.photos import PHOTOS

pytestmark = pytest.mark.skipif(
    not HAS_TORCHVISION, reason="torchvision is not installed: make conformance"
)

FAMILIES: dict[str, tuple[str, type[QwenVLVideoProcessor]]] = {
    "qwen2-vl": ("qwen2_vl.Qwen2VLVideoProcessor", QwenVLVideoProcessor),
    "qwen3-vl": ("qwen3_vl.Qwen3VLVideoProcessor", Qwen3VLVideoProcessor),
}
SHAPES = [(4, 64, 96), (8, 240, 320), (5, 57, 101), (6, 200, 33), (12, 180, 180)]
OPTIONS: list[dict[str, Any]] = [
    {},
    {"size": {"shortest_edge": 3136, "longest_edge": 50_176}},
    *({"resample": number} for number in (0, 1, 2, 3)),
    {"patch_size": 8},
    {"merge_size": 1},
    {"temporal_patch_size": 3},
    {"do_rescale": False},
    {"do_normalize": False},
    {"image_mean": [0.1, 0.2, 0.7], "image_std": [0.9, 0.3, 0.4]},
    {"cap_pixels_per_frame": True, "max_video_tokens": 600},
]


def _frames(count: int, height: int, width: int) -> np.ndarray:
    with Image.open(PHOTOS["coffee-600x400.jpg"]) as image:
        pixels = np.asarray(image.convert("RGB"))
    return np.stack([pixels[7 * i : 7 * i + height, 3 * i : 3 * i + width] for i in range(count)])


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_videos_are_equal(
    family: str, shape: tuple[int, int, int], options: dict[str, Any]
) -> None:
    name, kind = FAMILIES[family]
    module, _, cls = name.partition(".")
    imported = importlib.import_module(f"transformers.models.{module}.video_processing_{module}")
    frames = _frames(*shape)
    theirs = getattr(imported, cls)(do_sample_frames=False, **options)
    ours = kind.from_values({"do_sample_frames": False, **options})
    try:
        expected = theirs(videos=[frames], return_tensors="np")
    except ValueError:
        with pytest.raises(mm.MaterializeError):
            ours(open_video(mm.Source(frames)))
        return
    made = ours(open_video(mm.Source(frames)), encoding="plain")
    values = expected["pixel_values_videos"]
    feature = np.asarray(made.feature)
    assert feature.dtype == values.dtype
    assert feature.shape == values.shape
    assert feature.tobytes() == values.tobytes()
    grid = made.model_specific_data["video_grid_thw"]
    assert grid.tolist() == expected["video_grid_thw"].tolist()
