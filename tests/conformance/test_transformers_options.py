"""Every option of the processors, and Pillow's own test images, equal transformers bit for bit.

The options run on a few images everywhere. The corpus is the folder of test images in Pillow's
source distribution, named by ``MMFORMAT_PILLOW_IMAGES``; `make conformance` fetches it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mmformat.errors import MMFormatError
from mmformat.media import load_image
from mmformat.media.processors import processor_from_config
from mmformat.model import Source
from tests.conformance.test_transformers_equal import (
    BACKENDS,
    CONFIGS,
    HAS_TORCHVISION,
    IMAGES,
    _class,
    _compare,
)

FAMILIES = {
    "qwen2_vl.Qwen2VLImageProcessor": {"size": {"shortest_edge": 3136, "longest_edge": 313600}},
    "clip.CLIPImageProcessor": {},
    "siglip.SiglipImageProcessor": {},
    "llava.LlavaImageProcessor": {"do_pad": True},
    "llava_next.LlavaNextImageProcessor": {},
    "got_ocr2.GotOcr2ImageProcessor": {"crop_to_patches": True, "max_patches": 6},
    "glm4v.Glm4vImageProcessor": {"size": {"shortest_edge": 12544, "longest_edge": 627200}},
    "pixtral.PixtralImageProcessor": {},
    "gemma3.Gemma3ImageProcessor": {},
    "llava_onevision.LlavaOnevisionImageProcessor": {
        "image_grid_pinpoints": [[384, 384], [768, 384], [384, 768]]
    },
}
ALL_OPTIONS: dict[str, dict[str, Any]] = {
    **{f"resample-{number}": {"resample": number} for number in range(6)},
    "no-resize": {"do_resize": False},
    "no-rescale": {"do_rescale": False},
    "no-normalize": {"do_normalize": False},
    "neither": {"do_rescale": False, "do_normalize": False},
    "rescale-factor": {"rescale_factor": 1 / 127.5},
    "mean-and-std": {"image_mean": [0.1, 0.2, 0.7], "image_std": [0.9, 0.3, 0.4]},
    "no-conversion": {"do_convert_rgb": False},
}
CROPPED = {
    "no-crop": {"do_center_crop": False, "size": {"height": 100, "width": 60}},
    "larger-crop": {"crop_size": {"height": 301, "width": 298}, "size": {"shortest_edge": 224}},
    "two-edges": {"size": {"shortest_edge": 100, "longest_edge": 160}},
    "max-edges": {"size": {"max_height": 190, "max_width": 130}},
    "square": {"size": {"height": 97, "width": 97}, "crop_size": {"height": 96, "width": 98}},
}
FAMILY_OPTIONS: dict[str, dict[str, dict[str, Any]]] = {
    "qwen2_vl.Qwen2VLImageProcessor": {
        "patch-16": {"patch_size": 16},
        "merge-1": {"merge_size": 1},
        "merge-4": {"merge_size": 4},
        "time-1": {"temporal_patch_size": 1},
        "small": {"size": {"shortest_edge": 784, "longest_edge": 7840}},
        "large": {"size": {"shortest_edge": 500_000, "longest_edge": 1_000_000}},
    },
    "clip.CLIPImageProcessor": CROPPED,
    "siglip.SiglipImageProcessor": {"size": {"size": {"height": 50, "width": 75}}},
    "llava.LlavaImageProcessor": {"no-pad": {"do_pad": False}, **CROPPED},
    "llava_next.LlavaNextImageProcessor": {
        "pinpoints": {
            "image_grid_pinpoints": [[224, 224], [448, 224], [224, 672]],
            "size": {"shortest_edge": 224},
        }
    },
    "got_ocr2.GotOcr2ImageProcessor": {
        "no-patches": {"crop_to_patches": False},
        "one-patch": {"max_patches": 1},
        "one-patch-no-resize": {"max_patches": 1, "do_resize": False},
        "many-patches": {"min_patches": 4, "max_patches": 9},
    },
    "glm4v.Glm4vImageProcessor": {
        "patch-16": {"patch_size": 16},
        "merge-1": {"merge_size": 1},
        "time-3": {"temporal_patch_size": 3},
    },
    "pixtral.PixtralImageProcessor": {
        "patch": {"patch_size": {"height": 14, "width": 28}},
        "small": {"size": {"longest_edge": 100}},
        "two-edges": {"size": {"height": 90, "width": 300}},
    },
    "gemma3.Gemma3ImageProcessor": {
        "pan-and-scan": {
            "do_pan_and_scan": True,
            "pan_and_scan_min_crop_size": 40,
            "pan_and_scan_max_num_crops": 3,
            "pan_and_scan_min_ratio_to_activate": 1.1,
        },
        "size": {"size": {"height": 50, "width": 75}},
    },
    "llava_onevision.LlavaOnevisionImageProcessor": {
        "size": {"size": {"height": 128, "width": 128}}
    },
}
CASES = [
    (family, option, values)
    for family in FAMILIES
    for option, values in {**ALL_OPTIONS, **FAMILY_OPTIONS[family]}.items()
]
SOME = ("chelsea-360x240.png", "coffee-palette.png", "crop-97x41", "crop-447x449", "mode-L")


def _pair(family: str, values: dict[str, Any], backend: Any) -> tuple[Any, Any]:
    values = {**FAMILIES[family], **values}
    named = {"image_processor_type": family.partition(".")[2], **values}
    return _class(family, backend)(**values), processor_from_config(named, backend=backend)


@pytest.mark.parametrize(
    ("family", "option", "values"), CASES, ids=[f"{c[0]}-{c[1]}" for c in CASES]
)
@pytest.mark.parametrize("backend", BACKENDS)
def test_every_option_is_equal(
    backend: str, family: str, option: str, values: dict[str, Any]
) -> None:
    theirs, ours = _pair(family, values, backend)
    for name in SOME:
        _compare(theirs, ours, IMAGES[name])


def test_identities_tell_the_backends_apart() -> None:
    if not HAS_TORCHVISION:
        pytest.skip("torchvision is not installed: make conformance")
    from mmformat import Modality, MultimodalDataItem, MultimodalInputs, materialize

    item = MultimodalDataItem(
        modality=Modality.IMAGE, feature=Source(IMAGES["coffee-600x400.jpg"]())
    )
    found = {
        materialize(
            MultimodalInputs(items=[item]),
            processor_from_config(
                {"image_processor_type": "CLIPImageProcessor"},
                backend=backend,  # type: ignore[arg-type]
            ),
        )
        .items[0]
        .identity
        for backend in ("pil", "torchvision")
    }
    assert len(found) == 2


# -------------------------------------------------------------------------- Pillow's test images

CORPUS = os.environ.get("MMFORMAT_PILLOW_IMAGES")
FILES = sorted(path for path in Path(CORPUS).rglob("*") if path.is_file()) if CORPUS else []
MAX_PIXELS = 4_000_000


@pytest.mark.skipif(not CORPUS, reason="MMFORMAT_PILLOW_IMAGES names no folder: make conformance")
def test_the_corpus_has_images_enough() -> None:
    readable = 0
    for path in FILES:
        try:
            load_image(Source(path))
        except MMFormatError:
            continue
        readable += 1
    assert readable >= 100


@pytest.mark.parametrize("path", FILES, ids=[path.name for path in FILES])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.filterwarnings("ignore")
def test_pillows_own_images_are_equal(backend: Any, path: Path) -> None:
    try:
        image = load_image(Source(path, max_pixels=MAX_PIXELS))
    except MMFormatError:
        return  # refused, and by an error of ours
    for cls, values in CONFIGS.values():
        bare = {name: value for name, value in values.items() if name != "image_processor_type"}
        theirs = _class(cls, backend)(**bare)
        ours = processor_from_config(values, backend=backend)
        _compare(theirs, ours, lambda image=image: Image.Image.copy(image))  # type: ignore[misc]
