"""Image processors: what they are configured with, what they refuse, and what they copy."""

from __future__ import annotations

import copy
import io
import json
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import mmformat as mm
from mmformat.errors import MaterializeError
from mmformat.media.image import (
    FixedSizeImageProcessor,
    ImageProcessor,
    LlavaImageProcessor,
    LlavaNextImageProcessor,
    Normalization,
    QwenVLImageProcessor,
    TilesImageProcessor,
)
from mmformat.media.image.pixels import PillowPixels, output_size, smart_resize
from mmformat.media.image.tiles import best_resolution, tile_grid
from mmformat.media.processors import KNOWN_PROCESSORS, processor_from_config
from mmformat.model import DictionaryTensor, Modality, MultimodalDataItem, MultimodalInputs
from tests.support.photos import PHOTOS

ALL = [
    QwenVLImageProcessor(),
    FixedSizeImageProcessor(),
    LlavaImageProcessor(background=(1, 2, 3)),
    LlavaNextImageProcessor(),
    TilesImageProcessor(crop_to_patches=True),
]
NAMES = [type(each).__name__ for each in ALL]


def _pixels(height: int = 60, width: int = 80) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


# ------------------------------------------------------------------------------ configurations


@pytest.mark.parametrize("name", KNOWN_PROCESSORS)
@pytest.mark.parametrize("suffix", ["", "Fast", "Pil"])
def test_each_name_with_each_suffix_is_known(name: str, suffix: str) -> None:
    processor = processor_from_config({"image_processor_type": name + suffix})
    assert isinstance(processor(_pixels()).feature, DictionaryTensor)


@pytest.mark.parametrize("named", ["DonutImageProcessor", "", None, 7])
def test_an_unknown_name_is_refused_and_the_known_ones_named(named: Any) -> None:
    with pytest.raises(
        MaterializeError, match=r"CLIPImageProcessor.*Qwen2VLImageProcessor"
    ) as error:
        processor_from_config({"image_processor_type": named})
    assert error.value.code == "unknown-processor"
    assert error.value.path == "$.image_processor_type"


def test_a_file_its_folder_and_a_nested_configuration(tmp_path: Path) -> None:
    values = {"image_processor_type": "Qwen2VLImageProcessorFast", "patch_size": 16}
    plain = tmp_path / "preprocessor_config.json"
    plain.write_text(json.dumps(values))
    nested = tmp_path / "nested"
    nested.mkdir()
    (nested / "processor_config.json").write_text(json.dumps({"image_processor": values}))
    for config in (values, plain, str(plain), tmp_path, nested):
        processor = processor_from_config(config)
        assert processor == QwenVLImageProcessor(patch_size=16)


def test_overrides_win_and_set_what_comes_out() -> None:
    processor = processor_from_config(
        {"image_processor_type": "Qwen2VLImageProcessor", "max_pixels": 9},
        encoding="plain",
        dtype="bfloat16",
        max_pixels=56 * 56,
    )
    feature = processor(_pixels(600, 600)).feature
    assert feature.dtype == torch.bfloat16
    assert feature.shape == (4, 1176)
    assert processor(_pixels(), encoding="dictionary").feature.dtype == "bfloat16"
    assert processor(_pixels(), dtype="float32").feature.dtype == np.float32


@pytest.mark.parametrize("written", ["", "[1]", "{", '{"image_processor_type": 1', "\x00"])
def test_a_file_that_is_no_object_is_refused(tmp_path: Path, written: str) -> None:
    path = tmp_path / "preprocessor_config.json"
    path.write_text(written)
    with pytest.raises(MaterializeError):
        processor_from_config(path)
    with pytest.raises(MaterializeError):
        processor_from_config(tmp_path / "absent.json")
    with pytest.raises(MaterializeError):
        processor_from_config(tmp_path.parent)


@pytest.mark.parametrize(
    ("kind", "values", "path"),
    [
        ("Qwen2VL", {"patch_size": "14"}, "$.patch_size"),
        ("Qwen2VL", {"patch_size": 0}, "$.patch_size"),
        ("Qwen2VL", {"size": 224}, "$.size"),
        ("Qwen2VL", {"size": {"shortest_edge": -4}}, "$.size"),
        ("Qwen2VL", {"do_resize": "yes"}, "$.do_resize"),
        ("Qwen2VL", {"resample": 77}, "$.resample"),
        ("Qwen2VL", {"rescale_factor": "1/255"}, "$.rescale_factor"),
        ("Qwen2VL", {"image_mean": ["a", "b", "c"]}, "$.image_mean[0]"),
        ("CLIP", {"size": "big"}, "$.size"),
        ("CLIP", {"crop_size": {"shortest_edge": 3}}, "$.crop_size"),
        ("Llava", {"do_pad": True, "image_mean": 0.5}, "$.image_mean"),
        ("LlavaNext", {"image_grid_pinpoints": [[336]]}, "$.image_grid_pinpoints[0]"),
        ("LlavaNext", {"image_grid_pinpoints": [[336, 0]]}, "$.image_grid_pinpoints[0]"),
        ("LlavaNext", {"size": {"longest_edge": 5}}, "$.size"),
        ("GotOcr2", {"max_patches": True}, "$.max_patches"),
    ],
)
def test_a_value_without_a_meaning_is_named(kind: str, values: dict[str, Any], path: str) -> None:
    with pytest.raises(MaterializeError) as error:
        processor_from_config({"image_processor_type": f"{kind}ImageProcessor", **values})
    assert error.value.path == path


def test_null_is_the_default_of_the_class() -> None:
    nulls = dict.fromkeys(("size", "crop_size", "image_mean", "resample", "do_convert_rgb"))
    processor = processor_from_config({"image_processor_type": "CLIPImageProcessor", **nulls})
    assert processor == FixedSizeImageProcessor()


# -------------------------------------------------------------------------------- normalization


def test_the_table_is_the_arithmetic_of_each_byte() -> None:
    table = Normalization(rescale_factor=1 / 255, mean=(0.4, 0.5), std=(0.3, 0.2)).table(2)
    for channel, (mean, std) in enumerate(((0.4, 0.3), (0.5, 0.2))):
        for byte in range(256):
            scaled = np.float32(np.float64(byte) * (1 / 255))
            wanted = (scaled - np.float32(mean)) / np.float32(std)
            assert table[channel, byte].tobytes() == wanted.tobytes()


@pytest.mark.parametrize(
    "make",
    [
        lambda: Normalization(mean=0.5),
        lambda: Normalization(std=0.5),
        lambda: Normalization(encoding="arrow"),  # type: ignore[arg-type]
        lambda: Normalization(dtype="float64"),  # type: ignore[arg-type]
        lambda: Normalization(mean=(0.5, 0.5), std=(0.5, 0.5)).table(3),
    ],
)
def test_a_normalization_without_a_meaning_is_refused(make: Callable[[], Any]) -> None:
    with pytest.raises(MaterializeError):
        make()


def test_a_std_of_zero_gives_infinities_and_no_warning() -> None:
    table = Normalization(mean=0.0, std=0.0).table(1)
    assert np.isnan(table[0, 0]) and np.isposinf(table[0, 1:]).all()


# ----------------------------------------------------------------------------------- what comes


@pytest.mark.parametrize("processor", ALL, ids=NAMES)
def test_a_still_is_small_and_whole(processor: ImageProcessor) -> None:
    feature = processor(Image.open(PHOTOS["hubble-1000x872.jpg"])).feature
    least = 7.9 if isinstance(processor, QwenVLImageProcessor) else 3.9
    assert feature.spec.nbytes / feature.nbytes >= least


CLIP_336 = FixedSizeImageProcessor(size={"shortest_edge": 336}, crop_size=(336, 336))


@pytest.mark.parametrize(
    ("processor", "least"),
    # At 224 x 224 the table (3 KB) and the message's own 3 KB are 4 % of what is sent.
    [(ALL[0], 7.9), (CLIP_336, 3.9), (FixedSizeImageProcessor(), 3.84)],
    ids=["qwen", "clip-336", "clip-224"],
)
def test_the_message_of_a_still_is_small(processor: ImageProcessor, least: float) -> None:
    processed = processor(Image.open(PHOTOS["hubble-1000x872.jpg"]))
    item = MultimodalDataItem(
        modality=Modality.IMAGE,
        feature=processed.feature,
        model_specific_data=processed.model_specific_data,
    )
    message = mm.encode(MultimodalInputs(items=[item]))
    assert processed.feature.spec.nbytes / message.nbytes >= least


@pytest.mark.parametrize("processor", ALL, ids=NAMES)
def test_the_image_is_not_changed(processor: ImageProcessor) -> None:
    image = Image.open(PHOTOS["coffee-600x400.jpg"])
    image.load()
    before = image.tobytes()
    first = processor(image).feature
    first.codes[...] = 0  # what was handed out is the caller's own
    assert image.tobytes() == before
    array = _pixels()
    kept = array.copy()
    processor(array).feature.codes[...] = 0
    assert np.array_equal(array, kept)
    assert processor(array).feature.codes.any()


@pytest.mark.parametrize("processor", ALL, ids=NAMES)
def test_a_processor_can_go_to_another_process(processor: ImageProcessor) -> None:
    assert copy.deepcopy(processor) == processor


def test_no_float_is_touched_on_the_way_to_codes() -> None:
    image = Image.open(PHOTOS["hubble-1000x872.jpg"]).convert("RGB").resize((1008, 868))
    processor = QwenVLImageProcessor(max_pixels=10**7)
    processor(image)
    tracemalloc.start()
    feature = processor(image).feature
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # Codes, one plane of Pillow's, and the joined bytes of it: far below 4 bytes a pixel's channel.
    assert peak < 2.5 * feature.codes.nbytes


# ---------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize("processor", ALL, ids=NAMES)
@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4, 3), np.float32),
        np.zeros((4, 4, 2), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((3, 8, 8), np.uint8)[:, :, :5],
        np.zeros((1, 2, 3, 3), np.uint8),
        "photo.jpg",
        None,
        Image.new("RGB", (0, 5)),
    ],
    ids=["float", "two-channels", "empty", "channels-first", "4-d", "text", "none", "no-pixels"],
)
def test_what_is_no_image_is_refused(processor: ImageProcessor, image: Any) -> None:
    with pytest.raises(MaterializeError):
        processor(image)


@pytest.mark.parametrize("processor", ALL, ids=NAMES)
def test_a_truncated_file_is_an_error_of_ours(processor: ImageProcessor) -> None:
    whole = (PHOTOS["coffee-600x400.jpg"]).read_bytes()
    image = Image.open(io.BytesIO(whole[: len(whole) // 2]))
    with pytest.raises(MaterializeError, match="truncated"):
        processor(image)


@pytest.mark.parametrize(
    "processor",
    [FixedSizeImageProcessor(), LlavaImageProcessor(background=(0, 0, 0)), QwenVLImageProcessor()],
    ids=["clip", "llava-pad", "qwen"],
)
def test_a_thin_image_asks_for_no_gigabytes(processor: ImageProcessor) -> None:
    thin = Image.new("RGB", (1, 200_000))
    tracemalloc.start()
    with pytest.raises(MaterializeError):
        processor(thin)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**20


def test_no_resolution_to_choose_from_is_refused() -> None:
    with pytest.raises(MaterializeError, match="no resolution"):
        LlavaNextImageProcessor(pinpoints=())(_pixels())


def test_tiles_of_several_sizes_are_refused() -> None:
    processor = LlavaNextImageProcessor(size=None, crop_size=None, pinpoints=((300, 300),))
    with pytest.raises(MaterializeError, match="different sizes"):
        processor(_pixels())


def test_patches_that_do_not_fit_are_refused() -> None:
    with pytest.raises(MaterializeError, match="multiples of 28"):
        QwenVLImageProcessor(do_resize=False)(_pixels())
    assert QwenVLImageProcessor(do_resize=False)(_pixels(56, 84)).feature.shape == (24, 1176)


def test_an_encoding_or_dtype_that_is_none_is_refused() -> None:
    for arguments in ({"encoding": "lossy"}, {"dtype": "int8"}):
        with pytest.raises(MaterializeError, match="expected"):
            ALL[0](_pixels(), **arguments)


def test_modes_that_are_no_bytes_need_the_conversion() -> None:
    processor = FixedSizeImageProcessor(do_convert_rgb=False)
    with pytest.raises(MaterializeError, match="mode F"):
        processor(Image.new("F", (8, 8)))


# ---------------------------------------------------------------------------------- geometry


def test_sizes_by_hand() -> None:
    assert smart_resize(28, 28, factor=28, min_pixels=1, max_pixels=10**6) == (28, 28)
    assert smart_resize(1, 1, factor=28, min_pixels=3136, max_pixels=10**6) == (56, 56)
    assert smart_resize(4000, 3000, factor=28, min_pixels=1, max_pixels=28 * 28 * 12) == (112, 84)
    assert output_size(100, 200, size={"shortest_edge": 50}) == (50, 100)
    assert output_size(200, 100, size={"shortest_edge": 50, "longest_edge": 80}) == (80, 40)
    assert output_size(100, 200, size={"max_height": 50, "max_width": 50}) == (25, 50)
    assert output_size(1, 2, size={"height": 7, "width": 9}) == (7, 9)
    with pytest.raises(MaterializeError):
        output_size(1, 1, size={"longest_edge": 4})
    assert best_resolution(100, 100, [(336, 672), (336, 336)]) == (336, 336)
    assert tile_grid((448, 448), (448, 448), min_patches=1, max_patches=1) == (1, 1)
    assert tile_grid((100, 500), (448, 448), min_patches=2, max_patches=6) == (5, 1)


def test_a_crop_larger_than_the_image_is_zeros_around_it() -> None:
    image = Image.new("L", (3, 2), 9)
    cropped = np.asarray(PillowPixels(image).center_crop(4, 6).image)[None]
    assert cropped.shape == (1, 4, 6)
    assert cropped.sum() == 9 * 6
    assert cropped[0, 1:3, 2:5].tolist() == [[9, 9, 9], [9, 9, 9]]


def test_processors_need_neither_torch_nor_transformers() -> None:
    code = (
        "import sys, numpy as np\n"
        "from mmformat.media.processors import processor_from_config\n"
        "p = processor_from_config({'image_processor_type': 'Qwen2VLImageProcessor'})\n"
        "p(np.zeros((60, 80, 3), np.uint8)).feature.expand()\n"
        "p(np.zeros((60, 80, 3), np.uint8), dtype='float16').feature.expand()\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules\n"
    )
    import subprocess

    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[3])


# ------------------------------------------------------------------------- backends, 16-bit grey


def _grey_16() -> Image.Image:
    return Image.fromarray(np.arange(0, 65_536, 16, dtype=np.uint16).reshape(64, 64))


@pytest.mark.parametrize("backend", ["pil", "torchvision"])
def test_sixteen_bits_are_clipped_with_a_warning_or_scaled(
    backend: Any, caplog: pytest.LogCaptureFixture
) -> None:
    values = {"size": None, "crop_size": None, "backend": backend}
    with caplog.at_level("WARNING"):
        clipped = FixedSizeImageProcessor(**values)(_grey_16()).feature
    assert "sixteen_bit='scale'" in caplog.text
    codes = np.asarray(clipped.codes)
    assert (codes == 255).mean() > 0.99  # what transformers sees
    scaled = FixedSizeImageProcessor(**values, sixteen_bit="scale")(_grey_16()).feature
    expected = np.round(np.arange(0, 65_536, 16) / 257).astype(np.uint8).reshape(64, 64)
    for channel in np.asarray(scaled.codes)[0]:
        np.testing.assert_array_equal(channel, expected)


def test_a_processor_shows_the_backend_that_was_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    from mmformat.media.image import pixels

    for found, expected in ((object(), "torchvision"), (None, "pil")):
        monkeypatch.setattr(pixels.importlib.util, "find_spec", lambda _, found=found: found)
        made = processor_from_config({"image_processor_type": "CLIPImageProcessor"})
        assert made.backend == expected  # type: ignore[attr-defined]
        assert made.normalization.fused == (expected == "torchvision")  # type: ignore[attr-defined]
    named = {"image_processor_type": "CLIPImageProcessorPil"}
    monkeypatch.setattr(pixels.importlib.util, "find_spec", lambda _: object())
    assert processor_from_config(named).backend == "pil"  # type: ignore[attr-defined]


@pytest.mark.parametrize("values", [{"backend": "cuda"}, {"sixteen_bit": "wrap"}])
def test_an_unknown_backend_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(MaterializeError, match="must be"):
        FixedSizeImageProcessor(**values)
    with pytest.raises(MaterializeError, match="must be"):
        processor_from_config({"image_processor_type": "CLIPImageProcessor"}, **values)


def test_pixels_of_either_backend_have_byte_codes_in_a_finished_tensor() -> None:
    from mmformat.media.detect import find_dictionary

    image = Image.effect_mandelbrot((96, 96), (-2, -1, 1, 1), 60).convert("RGB")
    for backend in ("pil", "torchvision"):
        processor = FixedSizeImageProcessor(size=None, crop_size=None, backend=backend)
        plain = processor(image, encoding="plain").feature
        normalization = processor.normalization
        found = find_dictionary(plain, mean=normalization.mean, std=normalization.std)
        assert found is not None
        np.testing.assert_array_equal(found.codes, processor(image).feature.codes)
