"""Every kind of source gives the same pixels, within its bounds."""

from __future__ import annotations

import base64
import io
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote_from_bytes

import numpy as np
import pytest
from PIL import Image, ImageFile
from transformers.image_utils import load_image as transformers_load_image

from mmformat import LimitError, MaterializeError, Source
from mmformat.media import load_image
from mmformat.media.sources import IMAGE_FORMATS

PHOTO = "coffee-600x400.jpg"


def _pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image)


@pytest.fixture
def photo(photos: dict[str, Path]) -> Path:
    return photos[PHOTO]


@pytest.fixture
def expected(photo: Path) -> np.ndarray:
    with Image.open(photo) as image:
        return np.asarray(image)


def test_each_kind_gives_the_same_pixels(photo: Path, expected: np.ndarray) -> None:
    data = photo.read_bytes()
    text = base64.b64encode(data).decode()
    sources = [
        Source(data),
        Source(bytearray(data)),
        Source(memoryview(data)),
        Source(text),
        Source(base64.encodebytes(data).decode()),
        Source(base64.urlsafe_b64encode(data).decode().rstrip("=")),
        Source(f"data:image/jpeg;base64,{text}"),
        Source(f"data:image/jpeg,{quote_from_bytes(data)}"),
        Source(photo),
        Source(str(photo)),
        Source(photo, kind="path"),
        Source(io.BytesIO(data)),
        Source(expected),
        Source(expected.transpose(2, 0, 1)),
        Source(Image.fromarray(expected)),
        Source("https://example.org/a.jpg", fetcher=lambda url: data),
    ]
    for source in sources:
        np.testing.assert_array_equal(_pixels(load_image(source)), expected, err_msg=repr(source))


def test_the_image_is_the_one_that_transformers_loads(photos: dict[str, Path]) -> None:
    for name, path in photos.items():
        ours = load_image(Source(path)).convert("RGB")
        theirs = transformers_load_image(str(path))
        np.testing.assert_array_equal(_pixels(ours), _pixels(theirs), err_msg=name)


def test_the_camera_orientation_is_applied_once(photos: dict[str, Path]) -> None:
    path = photos["china-exif-rotated.jpg"]
    once = load_image(Source(path))
    with Image.open(path) as stored:
        assert once.size == stored.size[::-1]
    assert load_image(Source(once)).size == once.size


def test_a_file_object_is_read_from_where_it_stands_and_left_open(
    photo: Path, expected: np.ndarray
) -> None:
    file = io.BytesIO(b"junk" + photo.read_bytes())
    file.seek(4)
    np.testing.assert_array_equal(_pixels(load_image(Source(file))), expected)
    assert not file.closed


def test_an_image_that_is_given_is_not_copied() -> None:
    image = Image.new("RGB", (3, 2))
    assert load_image(Source(image)) is image


def test_no_request_is_made_without_a_fetcher() -> None:
    with pytest.raises(MaterializeError, match="no request was made") as caught:
        load_image(Source("http://127.0.0.1:9/a.jpg"), path="$.items[3].feature")
    assert caught.value.code == "no-fetcher"
    assert caught.value.path == "$.items[3].feature"
    assert "fetcher=" in str(caught.value.hint)


def test_a_fetcher_that_fails_is_named(photo: Path) -> None:
    def fail(url: str) -> bytes:
        raise RuntimeError("no route")

    with pytest.raises(MaterializeError, match="RuntimeError: no route"):
        load_image(Source("https://example.org/a.jpg"), fetcher=fail)
    with pytest.raises(MaterializeError, match="expected bytes, got str"):
        load_image(Source("https://example.org/a.jpg"), fetcher=lambda url: "text")


def test_the_sources_own_fetcher_comes_first(photo: Path) -> None:
    asked: list[str] = []

    def mine(url: str) -> bytes:
        asked.append(url)
        return photo.read_bytes()

    source = Source("https://example.org/a.jpg", fetcher=mine)
    load_image(source, fetcher=lambda url: b"")
    assert asked == ["https://example.org/a.jpg"]


class _Endless(io.RawIOBase):
    """A file without an end, which counts what was taken from it."""

    taken = 0

    def read(self, size: int = -1) -> bytes:
        if size < 0:
            raise AssertionError("asked for everything")
        self.taken += size
        return b"\0" * size


def test_no_more_bytes_are_read_than_the_bound(photo: Path, tmp_path: Path) -> None:
    endless = _Endless()
    with pytest.raises(LimitError, match="expected at most 1,000 bytes"):
        load_image(Source(endless, max_nbytes=1000))
    assert endless.taken == 1001
    for data in (
        photo,
        photo.read_bytes(),
        base64.b64encode(photo.read_bytes()).decode(),
        "data:," + "a" * 5000,
    ):
        with pytest.raises(LimitError, match="expected at most 1,000 bytes"):
            load_image(Source(data, max_nbytes=1000))
    sparse = tmp_path / "large.jpg"
    with sparse.open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(LimitError):
        load_image(Source(sparse))


def test_the_pixel_bound_holds_for_every_kind(photo: Path, expected: np.ndarray) -> None:
    for data in (photo, expected, expected.transpose(2, 0, 1), Image.fromarray(expected)):
        with pytest.raises(LimitError, match="600 x 400"):
            load_image(Source(data, max_pixels=600 * 400 - 1))
        assert load_image(Source(data, max_pixels=600 * 400)).size == (600, 400)


def test_what_is_no_regular_file_is_not_waited_for(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for path in (fifo, Path("/dev/zero"), tmp_path):
        with pytest.raises(MaterializeError):
            load_image(Source(path))
    with pytest.raises(MaterializeError, match="No such file"):
        load_image(Source(tmp_path / "absent.jpg"))
    with pytest.raises(MaterializeError, match="null"):
        load_image(Source("a\0.jpg"))


@pytest.mark.parametrize("text", ["data:image/png;base64", "data:image/png;base64,!!!", "abcde"])
def test_text_that_is_no_medium_is_refused(text: str) -> None:
    with pytest.raises(MaterializeError):
        load_image(Source(text))


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4, 3), np.float32),
        np.zeros((4, 4, 5), np.uint8),
        np.zeros((4,), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((2, 4, 4, 3), np.uint8),
    ],
)
def test_arrays_that_are_no_pixels_are_refused(array: np.ndarray) -> None:
    with pytest.raises(MaterializeError):
        load_image(Source(array))


@pytest.mark.parametrize(
    ("shape", "mode"), [((4, 5), "L"), ((4, 5, 1), "L"), ((4, 5, 3), "RGB"), ((4, 5, 4), "RGBA")]
)
def test_arrays_have_the_mode_of_their_channels(shape: tuple[int, ...], mode: str) -> None:
    image = load_image(Source(np.zeros(shape, np.uint8)))
    assert (image.mode, image.size) == (mode, (5, 4))


@pytest.mark.parametrize("form", [*IMAGE_FORMATS, "MPO"])
def test_each_format_is_opened(form: str, expected: np.ndarray) -> None:
    file = io.BytesIO()
    image = Image.fromarray(expected[:40, :60])
    image.convert("P" if form == "GIF" else "RGB").save(file, form)
    opened = load_image(Source(file.getvalue()))
    with Image.open(io.BytesIO(file.getvalue())) as same:
        np.testing.assert_array_equal(_pixels(opened), _pixels(same))
    assert opened.size == (60, 40)


def test_formats_that_start_programs_are_not_opened() -> None:
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"
    with Image.open(io.BytesIO(postscript)) as image:
        assert image.format == "EPS"  # Pillow itself would open it
    with pytest.raises(MaterializeError):
        load_image(Source(postscript))


# ------------------------------------------------------------- Pillow's global for half an image


@pytest.fixture
def truncated_images_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)


@pytest.mark.parametrize("name", ["JPEG", "PNG", "TIFF", "BMP", "GIF"])
@pytest.mark.usefixtures("truncated_images_allowed")
def test_half_an_image_is_refused_whatever_pillows_global_says(name: str) -> None:
    pixels = np.random.default_rng(7).integers(0, 256, (300, 300, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, name)
    whole = file.getvalue()
    with pytest.raises(MaterializeError):
        load_image(Source(whole[: len(whole) // 2]))
    with pytest.raises(MaterializeError):
        load_image(Source(Image.open(io.BytesIO(whole[: len(whole) // 2]))))
    assert load_image(Source(whole)).size == (300, 300)
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True  # others keep what they chose


@pytest.mark.usefixtures("truncated_images_allowed")
def test_the_global_is_restored_after_many_threads() -> None:
    pixels = np.random.default_rng(7).integers(0, 256, (200, 200, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG")
    half = file.getvalue()[:4_000]

    def refused(_: int) -> bool:
        with pytest.raises(MaterializeError):
            load_image(Source(half))
        return True

    with ThreadPoolExecutor(8) as executor:
        assert all(executor.map(refused, range(64)))
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True
