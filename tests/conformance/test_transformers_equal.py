"""Every image processor gives transformers' own bits: processors x images, nothing rounded.

The oracle is transformers, of the one version that the claim names, with both of its backends.
Where it refuses an image, ours must refuse it too, with an error of our own. The torchvision
backend needs torchvision, which `make conformance` installs into an environment of its own;
elsewhere its cases are skipped by name.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what transformers says about itself while it is imported
    import transformers

from mmformat.errors import MaterializeError
from mmformat.media.processors import processor_from_config
from mmformat.model import DictionaryTensor
from tests.support.photos import PHOTOS

TRANSFORMERS = "5.23.0"
ROOT = Path(__file__).parents[2]

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
HALF = [0.5, 0.5, 0.5]
IMAGENET_MEAN, IMAGENET_STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
PINPOINTS = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]

# Values as in the configurations that the models are published with, and ones that reach the
# other branches of each processor.
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen2-vl": (
        "qwen2_vl.Qwen2VLImageProcessor",
        {
            "image_processor_type": "Qwen2VLImageProcessor",
            "min_pixels": 3136,
            "max_pixels": 12845056,
            "patch_size": 14,
            "temporal_patch_size": 2,
            "merge_size": 2,
            "image_mean": list(CLIP_MEAN),
            "image_std": list(CLIP_STD),
        },
    ),
    "qwen2.5-vl-defaults": (
        "qwen2_vl.Qwen2VLImageProcessor",
        {"image_processor_type": "Qwen2VLImageProcessorFast"},
    ),
    "qwen3-vl": (
        "qwen2_vl.Qwen2VLImageProcessor",
        {
            "image_processor_type": "Qwen2VLImageProcessorFast",
            "size": {"longest_edge": 16777216, "shortest_edge": 65536},
            "patch_size": 16,
            "temporal_patch_size": 2,
            "merge_size": 2,
            "image_mean": HALF,
            "image_std": HALF,
        },
    ),
    "clip-224": ("clip.CLIPImageProcessor", {"image_processor_type": "CLIPImageProcessor"}),
    "clip-odd": (
        "clip.CLIPImageProcessor",
        {
            "image_processor_type": "CLIPFeatureExtractor",
            "size": {"shortest_edge": 181, "longest_edge": 307},
            "crop_size": {"height": 225, "width": 199},
            "image_mean": IMAGENET_MEAN,
            "image_std": IMAGENET_STD,
            "resample": 2,
        },
    ),
    "clip-no-rescale": (
        "clip.CLIPImageProcessor",
        {
            "image_processor_type": "CLIPImageProcessor",
            "size": 224,
            "crop_size": 224,
            "do_rescale": False,
            "image_mean": 127.5,
            "image_std": 127.5,
        },
    ),
    "siglip-384": (
        "siglip.SiglipImageProcessor",
        {
            "image_processor_type": "SiglipImageProcessor",
            "size": {"height": 384, "width": 384},
            "resample": 3,
            "rescale_factor": 0.00392156862745098,
            "image_mean": HALF,
            "image_std": HALF,
        },
    ),
    "siglip-no-normalize": (
        "siglip.SiglipImageProcessor",
        {"image_processor_type": "SiglipImageProcessor", "do_normalize": False},
    ),
    "llava-1.5": (
        "llava.LlavaImageProcessor",
        {
            "image_processor_type": "LlavaImageProcessorFast",
            "size": {"shortest_edge": 336},
            "crop_size": {"height": 336, "width": 336},
        },
    ),
    "llava-pad": (
        "llava.LlavaImageProcessor",
        {
            "image_processor_type": "LlavaImageProcessor",
            "do_pad": True,
            "pad_size": {"height": 336, "width": 336},
            "size": {"shortest_edge": 336},
            "crop_size": {"height": 336, "width": 336},
        },
    ),
    "llava-next": (
        "llava_next.LlavaNextImageProcessor",
        {
            "image_processor_type": "LlavaNextImageProcessor",
            "do_pad": True,
            "pad_size": {"height": 336, "width": 336},
            "image_grid_pinpoints": PINPOINTS,
            "size": {"shortest_edge": 336},
            "crop_size": {"height": 336, "width": 336},
        },
    ),
    "internvl": (
        "got_ocr2.GotOcr2ImageProcessor",
        {
            "image_processor_type": "GotOcr2ImageProcessorFast",
            "crop_to_patches": True,
            "min_patches": 1,
            "max_patches": 12,
            "size": {"height": 448, "width": 448},
            "image_mean": IMAGENET_MEAN,
            "image_std": IMAGENET_STD,
        },
    ),
    "glm-4.1v": (
        "glm4v.Glm4vImageProcessor",
        {
            "image_processor_type": "Glm4vImageProcessorFast",
            "size": {"shortest_edge": 12544, "longest_edge": 1254400},
        },
    ),
    "glm-4.6v": ("glm46v.Glm46VImageProcessor", {"image_processor_type": "Glm46VImageProcessor"}),
    "pixtral": ("pixtral.PixtralImageProcessor", {"image_processor_type": "PixtralImageProcessor"}),
    "mistral-3": (
        "pixtral.PixtralImageProcessor",
        {
            "image_processor_type": "PixtralImageProcessorFast",
            "size": {"longest_edge": 540},
            "patch_size": {"height": 14, "width": 14},
        },
    ),
    "gemma-3": (
        "gemma3.Gemma3ImageProcessor",
        {
            "image_processor_type": "Gemma3ImageProcessor",
            "size": {"height": 896, "width": 896},
            "resample": 2,
            "image_mean": HALF,
            "image_std": HALF,
        },
    ),
    "gemma-3-pan-and-scan": (
        "gemma3.Gemma3ImageProcessor",
        {
            "image_processor_type": "Gemma3ImageProcessor",
            "size": {"height": 224, "width": 224},
            "do_pan_and_scan": True,
            "pan_and_scan_min_crop_size": 64,
            "pan_and_scan_max_num_crops": 4,
            "pan_and_scan_min_ratio_to_activate": 1.2,
        },
    ),
    "llava-onevision": (
        "llava_onevision.LlavaOnevisionImageProcessor",
        {"image_processor_type": "LlavaOnevisionImageProcessor"},
    ),
    "got-ocr2": (
        "got_ocr2.GotOcr2ImageProcessor",
        {"image_processor_type": "GotOcr2ImageProcessor"},
    ),
}

ODD_SIZES = [
    (1, 1), (1, 2), (2, 1), (3, 3), (1, 199), (199, 1), (13, 14), (27, 29), (28, 28), (29, 55),
    (56, 57), (97, 41), (111, 222), (223, 224), (225, 226), (333, 100), (101, 399), (336, 335),
    (389, 47), (447, 449), (37, 640), (1, 201),
]  # fmt: skip


def _photo(name: str) -> Callable[[], Image.Image]:
    return lambda: Image.open(PHOTOS[name])


def _crop(height: int, width: int) -> Callable[[], Image.Image]:
    def make() -> Image.Image:
        whole = Image.open(PHOTOS["coffee-600x400.jpg"]).resize((660, 460))
        return whole.crop((5, 3, 5 + width, 3 + height))

    return make


def _small() -> Image.Image:
    return Image.open(PHOTOS["chelsea-360x240.png"]).convert("RGB")


def _mode(mode: str) -> Callable[[], Image.Image]:
    return lambda: _small().convert(mode)


def _palette_with_transparency() -> Image.Image:
    image = Image.open(PHOTOS["coffee-palette.png"])
    image.load()
    image.info["transparency"] = 7
    return image


def _rgb_with_transparency() -> Image.Image:
    image = _small()
    image.info["transparency"] = image.getpixel((3, 3))
    return image


def _gray_alpha() -> Image.Image:
    alpha = _small().convert("L").transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return Image.merge("LA", (_small().convert("L"), alpha))


def _animated(kind: str, frame: int) -> Callable[[], Image.Image]:
    def make() -> Image.Image:
        first = _small().resize((120, 80))
        frames = [first.transpose(Image.Transpose.FLIP_TOP_BOTTOM), first.rotate(180)]
        file = io.BytesIO()
        first.save(file, kind, save_all=True, append_images=frames, duration=50)
        file.seek(0)
        image = Image.open(file)
        image.seek(frame)
        return image

    return make


def _upright() -> Image.Image:
    return ImageOps.exif_transpose(Image.open(PHOTOS["china-exif-rotated.jpg"]))


def _array(channels: int) -> Callable[[], np.ndarray]:
    def make() -> np.ndarray:
        if channels == 4:
            return np.array(Image.open(PHOTOS["flower-rgba.png"]))
        pixels = np.array(_small())
        return pixels if channels == 3 else pixels[:, :, :channels]

    return make


IMAGES: dict[str, Callable[[], Any]] = {
    **{name: _photo(name) for name in PHOTOS},
    **{f"crop-{h}x{w}": _crop(h, w) for h, w in ODD_SIZES},
    **{f"mode-{mode}": _mode(mode) for mode in ("L", "1", "P", "CMYK", "YCbCr", "HSV", "I", "F")},
    "mode-LA": _gray_alpha,
    "palette-transparent": _palette_with_transparency,
    "rgb-transparent": _rgb_with_transparency,
    "exif-upright": _upright,
    "gif-frame-0": _animated("GIF", 0),
    "gif-frame-2": _animated("GIF", 2),
    "webp-frame-1": _animated("WEBP", 1),
    "apng-frame-1": _animated("PNG", 1),
    "array-gray": _array(1),
    "array-rgb": _array(3),
    "array-rgba": _array(4),
}


HAS_TORCHVISION = importlib.util.find_spec("torchvision") is not None
BACKENDS = [
    "pil",
    pytest.param(
        "torchvision",
        marks=pytest.mark.skipif(
            not HAS_TORCHVISION, reason="torchvision is not installed: make conformance"
        ),
    ),
]


def _class(name: str, backend: str) -> Any:
    family, _, cls = name.partition(".")
    pil = backend == "pil"
    module = f"transformers.models.{family}.image_processing_{'pil_' if pil else ''}{family}"
    return getattr(importlib.import_module(module), f"{cls}Pil" if pil else cls)


@functools.cache
def _theirs(config: str, backend: str) -> Any:
    cls, values = CONFIGS[config]
    values = {name: value for name, value in values.items() if name != "image_processor_type"}
    return _class(cls, backend)(**values)


@functools.cache
def _ours(config: str, backend: str) -> Any:
    return processor_from_config(CONFIGS[config][1], backend=backend)  # type: ignore[arg-type]


def _bits(value: Any) -> tuple[str, tuple[int, ...], bytes]:
    array = np.asarray(value)
    return str(array.dtype), array.shape, array.tobytes()


def test_the_oracle_is_the_version_that_the_claim_names() -> None:
    assert transformers.__version__ == TRANSFORMERS


def test_there_are_photographs_enough() -> None:
    assert len(PHOTOS) >= 12
    assert len(ODD_SIZES) >= 20


def _expanded(feature: Any) -> Any:
    return feature.expand() if isinstance(feature, DictionaryTensor) else feature


def _compare(theirs: Any, ours: Any, make: Callable[[], Any]) -> None:
    try:
        expected = dict(theirs(make(), return_tensors="np"))
    except (ValueError, TypeError, RuntimeError, ZeroDivisionError):
        with pytest.raises(MaterializeError):
            ours(make())
        return
    pixel_values = expected.pop("pixel_values")

    processed = ours(make())

    feature = processed.feature
    assert isinstance(feature, DictionaryTensor) == (pixel_values.dtype != np.uint8)
    assert _bits(_expanded(feature)) == _bits(pixel_values)
    assert {name: _bits(value) for name, value in processed.model_specific_data.items()} == {
        name: _bits(value) for name, value in expected.items()
    }


@pytest.mark.parametrize("image_name", IMAGES)
@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_equal_bit_for_bit(backend: str, config: str, image_name: str) -> None:
    _compare(_theirs(config, backend), _ours(config, backend), IMAGES[image_name])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("encoding", ["dictionary", "plain"])
@pytest.mark.parametrize("config", CONFIGS)
def test_each_dtype_is_the_cast_of_their_float32(
    backend: str, config: str, encoding: str, dtype: str
) -> None:
    make = IMAGES["chelsea-360x240.png"]
    theirs = torch.from_numpy(_theirs(config, backend)(make(), return_tensors="np")["pixel_values"])
    wanted = theirs.to(getattr(torch, dtype))

    feature = _ours(config, backend)(make(), encoding=encoding, dtype=dtype).feature
    if encoding == "dictionary":
        assert torch.equal(feature.expand_on("cpu").view(torch.uint8), wanted.view(torch.uint8))
        feature = feature.expand()

    assert torch.is_tensor(feature) == (dtype == "bfloat16")
    assert torch.equal(torch.as_tensor(feature).view(torch.uint8), wanted.view(torch.uint8))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("cls", ["clip.CLIPImageProcessor", "qwen2_vl.Qwen2VLImageProcessor"])
def test_bytes_that_nothing_is_done_to_stay_bytes(backend: str, cls: str) -> None:
    values = {"do_rescale": False, "do_normalize": False}
    named = {"image_processor_type": cls.partition(".")[2], **values}
    image = IMAGES["chelsea-360x240.png"]()
    expected = _class(cls, backend)(**values)(image, return_tensors="np")["pixel_values"]
    feature = processor_from_config(named, backend=backend)(image).feature  # type: ignore[arg-type]
    assert _bits(_expanded(feature)) == _bits(expected)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_without_conversion_the_channels_are_the_images_own(mode: str, backend: str) -> None:
    mean, std = (0.5, 0.25) if mode == "L" else (HALF, HALF)
    values = {"do_convert_rgb": False, "image_mean": mean, "image_std": std}
    image = _small().convert(mode)
    expected = _class("clip.CLIPImageProcessor", backend)(**values)(image, return_tensors="np")[
        "pixel_values"
    ]
    ours = processor_from_config(
        {"image_processor_type": "CLIPImageProcessor", **values},
        backend=backend,  # type: ignore[arg-type]
    )(image)
    assert _bits(_expanded(ours.feature)) == _bits(expected)


def test_a_saved_configuration_is_read_back(tmp_path: Path) -> None:
    theirs = _class("qwen2_vl.Qwen2VLImageProcessor", "pil")(max_pixels=300 * 300)
    theirs.save_pretrained(tmp_path)
    image = IMAGES["coffee-600x400.jpg"]()
    expected = theirs(image, return_tensors="np")["pixel_values"]
    for config in (tmp_path, tmp_path / "preprocessor_config.json"):
        assert _bits(
            _expanded(processor_from_config(config, backend="pil")(image).feature)
        ) == _bits(expected)
