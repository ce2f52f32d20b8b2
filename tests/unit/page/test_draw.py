"""The page as text: every dtype, layouts, normalizations, bounds, broken messages."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import tracemalloc
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from PIL import Image

import mmformat as mm
from mmformat.cli.front import main
from mmformat.media.image import FixedSizeImageProcessor, QwenVLImageProcessor
from mmformat.model.tensors import ITEMSIZE
from mmformat.page import PageBounds, draw
from mmformat.page.html import join, tag
from mmformat.page.pictures import Series, find_scaling, series_of, write_png
from mmformat.page.values import as_floats, read_values, summarize
from mmformat.testing import golden_vectors
from tests.support.requests import request_of


def _message(*features: object, **fields: object) -> mm.EncodedMessage:
    return mm.encode(request_of(*features, **fields))  # type: ignore[arg-type]


def _series(message: mm.EncodedMessage, *, is_video: bool = False) -> list[Series]:
    item = read_values(message).items[0]
    return series_of(item.feature, item.model_specific_data, is_video=is_video)


def _drawn(series: Series, number: int = 0, *, edge: int = 4096) -> np.ndarray:
    with Image.open(io.BytesIO(series.draw(number, edge=edge).png)) as image:
        return np.asarray(image)


@pytest.mark.parametrize("vector", golden_vectors("valid"), ids=lambda vector: vector.name)
def test_every_valid_vector_has_a_page(vector: object) -> None:
    page = draw(vector.path, title=vector.name)  # type: ignore[attr-defined]
    assert "No values are shown" not in page
    assert page.count("<h1>") == 1


@pytest.mark.parametrize("dtype", sorted(ITEMSIZE))
def test_values_of_every_dtype_are_those_of_another_library(dtype: str) -> None:
    size = ITEMSIZE[dtype]
    words = np.random.default_rng(1).integers(0, 256, 4096 * size, np.uint8)
    if size == 1:
        words = np.arange(256, dtype=np.uint8)
    if dtype == "bool":
        words &= 1
    named = getattr(ml_dtypes, dtype, None)
    values = words.view(np.dtype(named if named is not None else dtype))
    with np.errstate(invalid="ignore", over="ignore"):
        whole = values.astype(np.complex128)
        expected = abs(whole) if dtype.startswith("complex") else values.astype(np.float64)
    stored = read_values(_message(values)).items[0].feature
    assert (stored.dtype, stored.shape) == (dtype, values.shape)
    np.testing.assert_array_equal(as_floats(stored.words, dtype), expected)


@pytest.mark.parametrize("encoding", ["plain", "dictionary"])
def test_patches_are_put_together_again(encoding: str, photos: dict[str, Path]) -> None:
    """The drawn pixels are the resized photograph's, byte for byte."""
    processor = QwenVLImageProcessor(max_pixels=28 * 28 * 40)
    with Image.open(photos["china-640x427.jpg"]) as opened:
        made = processor(opened, encoding=encoding)  # type: ignore[arg-type]
        _, rows, columns = made.model_specific_data["image_grid_thw"][0].tolist()
        expected = opened.resize((columns * 14, rows * 14), Image.Resampling.BICUBIC)
    (series,) = _series(_message(made.feature, model_specific_data=made.model_specific_data))
    assert "CLIP" in series.scaling.told
    np.testing.assert_array_equal(_drawn(series), np.asarray(expected))


def test_frames_of_patches_are_told_apart() -> None:
    frames = np.random.default_rng(2).integers(0, 256, (4, 3, 28, 56), np.uint8)
    cells = frames.reshape(2, 2, 3, 1, 2, 14, 2, 2, 14)  # t, span, c, y, merge, h, x, merge, w
    patches = cells.transpose(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(2 * 2 * 4, -1)
    feature = (patches / 255).astype(np.float32)
    grid = {"video_grid_thw": np.array([[2, 2, 4]])}
    (series,) = _series(
        _message(feature, modality="VIDEO", model_specific_data=grid), is_video=True
    )
    assert series.count == 4
    for at in range(4):
        np.testing.assert_array_equal(_drawn(series, at), frames[at].transpose(1, 2, 0))


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("encoding", ["plain", "dictionary"])
def test_planes_are_denormalized(dtype: str, encoding: str, photos: dict[str, Path]) -> None:
    pixels = Image.open(photos["flower-1280x854.jpg"]).convert("RGB").resize((336, 224))
    processor = FixedSizeImageProcessor(size=None, crop_size=None)
    made = processor(pixels, encoding=encoding, dtype=dtype)  # type: ignore[arg-type]
    (series,) = _series(_message(made.feature))
    near = abs(_drawn(series).astype(int) - np.asarray(pixels, int)).max()
    assert near <= (0 if dtype != "bfloat16" else 1)


def test_bytes_and_gray_and_unknown_scales() -> None:
    bytes_ = np.random.default_rng(3).integers(0, 256, (2, 40, 50, 3), np.uint8)
    (series,) = _series(_message(bytes_))
    assert (series.count, series.scaling.told) == (2, "bytes as they are")
    np.testing.assert_array_equal(_drawn(series, 1), bytes_[1])
    ramp = np.linspace(-3, 9, 64 * 64, dtype=np.float32).reshape(1, 64, 64)
    (series,) = _series(_message(ramp))
    assert series.scaling.told.startswith("stretched: -")
    drawn = _drawn(series)
    assert drawn.shape == (64, 64)
    assert (int(drawn[0, 0]), int(drawn[-1, -1])) == (0, 255)


@pytest.mark.parametrize(
    "shape", [(1196, 2048), (16,), (), (3, 4, 5), (0, 3, 32, 32), (5, 3, 9, 0)]
)
def test_what_is_no_picture_is_not_drawn(shape: tuple[int, ...]) -> None:
    assert _series(_message(np.zeros(shape, np.float32))) == []


def test_half_a_grid_is_no_grid() -> None:
    """Attributes that do not fit the patches draw nothing, and break nothing."""
    feature = np.zeros((16, 1176), np.float32)
    for grid in ([[1, 4, 5]], [[2**40, 1, 1]], [[-1, -4, 4]], [[0, 4, 4]], [[1, 4]], [["x"] * 3]):
        data = {"image_grid_thw": np.array(grid) if grid[0][0] != "x" else grid}
        assert "<img" not in draw(_message(feature, model_specific_data=data))


@pytest.mark.parametrize("mean", [(0.485, 0.456, 0.406), (0.5, 0.5, 0.5)])
def test_scalings_are_found(mean: tuple[float, ...]) -> None:
    pixels = np.random.default_rng(4).integers(0, 256, (500, 3)) / 255
    std = (0.229, 0.224, 0.225) if mean[0] != 0.5 else (0.5,)
    found = find_scaling((pixels - mean) / std, floats=True)
    np.testing.assert_allclose(found.bytes((pixels - mean) / std), pixels * 255, atol=1e-6)


def test_a_png_is_what_pillow_reads() -> None:
    generator = np.random.default_rng(5)
    smooth = np.add.outer(np.arange(70), np.arange(90)).astype(np.uint8)
    for pixels in (generator.integers(0, 256, (7, 5, 3), np.uint8), smooth, smooth[:1, :1]):
        with Image.open(io.BytesIO(write_png(pixels))) as image:
            np.testing.assert_array_equal(np.asarray(image), pixels)
    palette = generator.integers(0, 256, (256, 3), np.uint8)
    with Image.open(io.BytesIO(write_png(smooth, palette=palette))) as image:
        np.testing.assert_array_equal(np.asarray(image.convert("RGB")), palette[smooth])


def test_a_large_tensor_is_sampled() -> None:
    values = np.zeros(3_000_000, np.float32)
    values[2_999_999] = np.nan
    values[0] = np.inf
    summary = summarize(read_values(_message(values)).items[0].feature, most=10_000)
    assert (summary.is_whole, summary.total) == (False, 3_000_000)
    assert summary.looked_at <= 10_000
    assert (summary.nans, summary.infinities) == (1, 1), "both ends are looked at"


def test_the_page_is_bounded() -> None:
    noise = np.random.default_rng(6).integers(0, 256, (30, 64, 64, 3), np.uint8)
    message = _message(*[noise] * 20, modality="VIDEO", model_specific_data={"t": np.arange(99)})
    bounds = PageBounds(items=10, tensors=5, pictures=7, frames=3, picture_nbytes=2**16)
    page = draw(message, bounds=bounds)
    assert page.count("<img") <= 7
    assert page.count('class="histogram"') <= 5
    assert page.count("<section") == 10 + 2
    assert "10 more items stand in the table of sizes alone." in page
    assert len(page) < 300_000
    packed = mm.encode(mm.decode(message), mm.Compression(codec="lz4", threshold_nbytes=1))
    assert "would have to be decompressed" in draw(packed, bounds=PageBounds(decompressed_nbytes=1))


def test_a_message_without_media_has_a_page() -> None:
    page = draw(mm.encode(mm.MultimodalInputs()))
    assert "A request with no media." in page
    assert "There are no tensors." in page


def test_broken_attributes_are_told_in_the_page() -> None:
    """What can still be told is; what is broken has its code."""
    data = bytes(_message(np.zeros((4, 4)), model_specific_data={"a": 1}))
    broken = data.replace(b'"$ndarray"', b'"$nothing"')
    assert broken != data
    page = draw(broken)
    assert "No values are shown, because the message is broken (attributes-value)" in page
    assert "4 \N{MULTIPLICATION SIGN} 4" in page
    with pytest.raises(mm.TruncatedError):
        draw(data[:-100])


def test_extreme_values() -> None:
    huge = np.array([-1.7e308, 1.7e308] * 20)
    near = np.array([1e300, np.nextafter(1e300, 2e300)] * 20)
    tiny = np.array([5e-324, 1e-323] * 20)
    for values in (huge, near, tiny, np.full(40, np.nan), np.full(40, 7.0), np.full(40, -np.inf)):
        assert "stored values" in draw(_message(values))


def test_markup_has_no_holes() -> None:
    for call in (
        lambda: tag("p", onclick="x"),
        lambda: tag("p", style="x"),
        lambda: tag("a", href="javascript:x"),
        lambda: tag("img", src="https://example.invalid/x.png"),
        lambda: tag("img", src="data:text/html,x"),
        lambda: tag("p onload=x"),
        lambda: tag("p", **{"a b": "x"}),
    ):
        with pytest.raises(ValueError, match="expected"):
            call()
    assert join("'\"<>&") == "&#x27;&quot;&lt;&gt;&amp;"


def test_the_policy_names_the_style_and_nothing_else() -> None:
    page = draw(_message(np.zeros((2, 2))))
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', page)
    assert "default-src &#x27;none&#x27;" in policy
    assert "unsafe" not in policy
    assert "http" not in re.sub(r'xmlns="[^"]*"', "", page.replace("http-equiv", ""))


def test_neither_torch_nor_pillow_is_needed(tmp_path: Path, photos: dict[str, Path]) -> None:
    path = tmp_path / "x.arrows"
    with Image.open(photos["china-640x427.jpg"]) as opened:
        made = QwenVLImageProcessor()(opened, dtype="bfloat16")
    _message(made.feature, model_specific_data=made.model_specific_data).save(path)
    script = (
        "import sys\nfor name in ('torch', 'PIL', 'ml_dtypes', 'rich'): sys.modules[name] = None\n"
        "from mmformat.cli.front import main\nsys.exit(main(sys.argv[1:]))"
    )
    page = tmp_path / "x.html"
    subprocess.run(
        [sys.executable, "-c", script, "inspect", path, "--html", page], check=True, timeout=100
    )
    assert page.read_text("utf-8").count("<img") == 1


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, page = tmp_path / "x.arrows", tmp_path / "x.html"
    _message(np.zeros((2, 2))).save(path)
    assert main(["inspect", str(path), "--html", str(page), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["nbytes"] == page.stat().st_size
    assert main(["inspect", str(path), str(path), "--html", str(page)]) == 2
    assert main(["inspect", str(tmp_path), "--html", str(page)]) == 2
    assert main(["inspect", str(path), "--html", str(tmp_path / "no" / "x.html")]) == 3
    assert main(["inspect", str(tmp_path / "absent"), "--html", str(page)]) == 3


def test_a_large_message_is_never_read_whole(tmp_path: Path) -> None:
    """What is allocated is in the measure of the bounds, not of the message."""
    path = tmp_path / "x.arrows"
    features = [np.zeros((1, 3, 2048, 2048), np.float32), np.zeros((30_000_000,), np.float32)]
    _message(*features).save(path)
    draw(mm.encode(mm.MultimodalInputs()))  # what is loaded once
    tracemalloc.start()
    try:
        page = draw(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert path.stat().st_size > 150_000_000
    assert peak < 40_000_000
    assert len(page) < 200_000


def test_one_spike_does_not_flatten_the_histogram() -> None:
    values = np.concatenate([np.linspace(-1, 1, 20_000), np.full(3_000, 1.0)]).astype(np.float32)
    item = mm.MultimodalDataItem(modality="IMAGE", feature=values)
    page = draw(mm.encode(mm.MultimodalInputs(items=[item])))
    assert "The highest bars are cut off." in page
    bars = re.search(r'class="histogram".*?<path d="(.*?)"', page, re.DOTALL)
    bars = bars or re.search(r'<path d="(.*?)" class="bar"', page, re.DOTALL)
    assert bars is not None
    heights = sorted(float(each) for each in re.findall(r"v-([\d.]+)h", bars[1]))
    assert heights[len(heights) // 2] > heights[-1] / 3
    even = mm.MultimodalDataItem(modality="IMAGE", feature=values[:20_000])
    assert "cut off" not in draw(mm.encode(mm.MultimodalInputs(items=[even])))
