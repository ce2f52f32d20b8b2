"""A request is materialized once: every tensor there, everything known, nothing left to decode."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image

import mmformat as mm
from mmformat.media import materialize, materialize_async, register_lazy
from tests.support.requests import request_of


class Made(NamedTuple):
    feature: Any
    model_specific_data: dict[str, Any]


def process(image: Image.Image, *, dtype: str = "float32") -> Made:
    """Stand for an image processor: the pixels, and the extents that a model asks for."""
    pixels = np.asarray(image.convert("RGB"), dtype)
    return Made(pixels, {"sizes": np.array([image.size]), "name": "x"})


@pytest.fixture
def photo(photos: dict[str, Path]) -> Path:
    return photos["astronaut-face-224.png"]


def test_everything_is_there_and_frozen(photo: Path) -> None:
    given = request_of(mm.Source(photo), offsets=[(3, 9)])
    out = materialize(given, process)
    (item,) = out.items
    np.testing.assert_array_equal(item.feature, np.asarray(Image.open(photo), np.float32))
    assert item.frozen
    assert item.offsets == [(3, 9)]
    assert isinstance(item.hash, int)
    assert isinstance(item.pad_value, int)
    assert isinstance(item.identity, str)
    with pytest.raises(mm.ModelError):
        item.feature = None
    # what was given is as it was
    assert isinstance(given.items[0].feature, mm.Source)
    assert given.items[0].hash is None
    assert not given.items[0].frozen


def test_lists_keep_their_shape_and_join_the_models_data(photo: Path) -> None:
    source = mm.Source(photo)
    (item,) = materialize(request_of([source, [source, np.zeros(2)], source]), process).items
    assert [type(each) for each in item.feature] == [np.ndarray, list, np.ndarray]
    assert item.feature[1][1].shape == (2,)
    np.testing.assert_array_equal(item.model_specific_data["sizes"], [[224, 224]] * 3)
    assert item.model_specific_data["name"] == ["x"] * 3


def test_torch_arrays_are_joined_too() -> None:
    def made(image: Image.Image) -> dict[str, Any]:
        return {"feature": torch.zeros(2), "grid": torch.tensor([[1, 2, 3]])}

    pixels = mm.Source(np.zeros((2, 2), np.uint8))
    (item,) = materialize(request_of([pixels, pixels]), made).items
    assert torch.equal(item.model_specific_data["grid"], torch.tensor([[1, 2, 3]] * 2))


def test_a_hash_a_pad_value_and_an_identity_are_kept(photo: Path) -> None:
    given = request_of(mm.Source(photo), hash=77, pad_value=5, identity="mine")
    (item,) = materialize(given, process).items
    assert (item.hash, item.pad_value, item.identity) == (77, 5, "mine")


@pytest.mark.parametrize("given", [-1, 0, 2**64 - 1, 2**64, -(2**70)])
def test_every_hash_of_an_old_engine_gets_a_pad_value(given: int) -> None:
    (item,) = materialize(request_of(np.zeros(1), hash=given)).items
    assert item.hash == given
    assert item.pad_value is not None


def test_the_hash_follows_the_content() -> None:
    def hash_of(value: int) -> int | None:
        pixels = np.full((4, 4, 3), value, np.uint8)
        return materialize(request_of(mm.Source(pixels)), process).items[0].hash

    assert hash_of(1) == hash_of(1)
    assert hash_of(1) != hash_of(2)


def test_materializing_again_does_nothing(photo: Path) -> None:
    once = materialize(request_of(mm.Source(photo)), process)
    calls: list[object] = []
    again = materialize(once, calls.append)
    assert again.items[0] is once.items[0]
    assert calls == []


def test_tensors_need_no_processor_and_are_not_copied() -> None:
    tensor = np.arange(6, dtype=np.float32)
    (item,) = materialize(request_of(tensor)).items
    assert item.feature is tensor
    assert item.frozen


def test_a_source_without_a_processor_says_what_is_missing(photo: Path) -> None:
    with pytest.raises(mm.MaterializeError, match=r"\$\.items\[1\]\.feature\[0\]") as caught:
        materialize(request_of(np.zeros(1), [mm.Source(photo)]))
    assert caught.value.code == "no-processor"


def test_one_processor_a_modality(photo: Path) -> None:
    items = [
        mm.MultimodalDataItem(modality=mm.Modality.IMAGE, feature=mm.Source(photo)),
        mm.MultimodalDataItem(modality=mm.Modality.AUDIO, feature=mm.Source([1, 2], kind="medium")),
    ]
    processors = {
        mm.Modality.IMAGE: process,
        mm.Modality.AUDIO: lambda samples: np.array(samples, np.float32),
    }
    image, audio = materialize(mm.MultimodalInputs(items=items), processors).items
    assert image.feature.shape == (224, 224, 3)
    np.testing.assert_array_equal(audio.feature, [1, 2])
    with pytest.raises(mm.MaterializeError, match="processor for AUDIO"):
        materialize(mm.MultimodalInputs(items=items), {mm.Modality.IMAGE: process})


def test_a_callable_of_two_gets_the_item_and_gives_updates(photo: Path) -> None:
    def update(image: Image.Image, item: mm.MultimodalDataItem) -> dict[str, Any]:
        assert item.offsets == [(0, 4)]
        return {
            "feature": np.asarray(image),
            "hash": 9,
            "format": mm.InputFormat.PROCESSOR_OUTPUT,
            "model_specific_data": {"a": 1},
            "image_sizes": [image.size],
        }

    given = request_of(mm.Source(photo), offsets=[(0, 4)], model_specific_data={"kept": 2})
    (item,) = materialize(given, update).items
    assert item.hash == 9
    assert item.format is mm.InputFormat.PROCESSOR_OUTPUT
    assert item.model_specific_data == {"kept": 2, "a": 1, "image_sizes": [(224, 224)]}


@pytest.mark.parametrize("result", [3, "text", {"feature": "text"}, {"feature": [None, 4]}])
def test_a_processor_that_gives_no_tensor_is_refused(photo: Path, result: object) -> None:
    with pytest.raises(mm.MaterializeError, match=r"at \$\.items\[0\]\.feature"):
        materialize(request_of(mm.Source(photo)), lambda image: result)


def test_a_processors_own_error_is_wrapped(photo: Path) -> None:
    def fail(image: Image.Image) -> np.ndarray:
        raise ZeroDivisionError("no pixels")

    with pytest.raises(mm.MaterializeError, match="ZeroDivisionError: no pixels") as caught:
        materialize(request_of(mm.Source(photo)), fail)
    assert caught.value.path == "$.items[0].feature"
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_our_own_errors_get_the_path_of_the_medium(photo: Path) -> None:
    def refuse(image: Image.Image) -> np.ndarray:
        raise mm.ModelError("expected less, got more", path="$.size", hint="less", code="mine")

    with pytest.raises(mm.MaterializeError, match=r"got more \(in \$\.size\)") as caught:
        materialize(request_of([mm.Source(photo)]), refuse)
    assert caught.value.path == "$.items[0].feature[0]"
    assert (caught.value.hint, caught.value.code) == ("less", "mine")


def test_a_bound_that_is_passed_stays_a_limit_error(photo: Path) -> None:
    with pytest.raises(mm.LimitError, match=r"\$\.items\[0\]\.feature"):
        materialize(request_of(mm.Source(photo, max_pixels=10)), process)


def test_a_missing_library_stays_what_it_is(photo: Path) -> None:
    def missing(image: Image.Image) -> np.ndarray:
        raise mm.MissingExtraError("expected av, got none", hint="pip install")

    with pytest.raises(mm.MissingExtraError):
        materialize(request_of(mm.Source(photo)), missing)


class Legacy:
    """Stand for an engine's old lazy object."""

    def __init__(self, path: Path) -> None:
        self._lazy_data = lambda: mm.Source(path)


class Chain:
    def materialize(self) -> Chain:
        return self


def test_lazy_objects_are_loaded_wherever_they_stand(photo: Path) -> None:
    class Grid:
        touched = 0

        @property
        def tensor(self) -> np.ndarray:
            Grid.touched += 1
            return np.array([[1, 2, 3]])

    register_lazy(Grid, "tensor")
    given = request_of([Legacy(photo)], model_specific_data={"grid": [Grid()], "n": {"m": Grid()}})
    given.request_data["positions"] = (Grid(), 4)
    given.items[0].precomputed_embeddings = Grid()
    out = materialize(given, process)
    (item,) = out.items
    assert item.feature[0].shape == (224, 224, 3)
    np.testing.assert_array_equal(item.model_specific_data["grid"][0], [[1, 2, 3]])
    np.testing.assert_array_equal(item.model_specific_data["n"]["m"], [[1, 2, 3]])
    np.testing.assert_array_equal(item.precomputed_embeddings, [[1, 2, 3]])
    np.testing.assert_array_equal(out.request_data["positions"][0], [[1, 2, 3]])
    assert Grid.touched == 4


def test_a_circle_of_lazy_objects_ends() -> None:
    with pytest.raises(mm.MaterializeError, match="after 8"):
        materialize(request_of(Chain()))
    with pytest.raises(mm.MaterializeError, match="after 8"):
        materialize(request_of(np.zeros(1), model_specific_data={"a": Chain()}))


def test_what_is_neither_tensor_nor_lazy_is_named() -> None:
    with pytest.raises(mm.MaterializeError, match=r"got object - at \$\.items\[0\]\.feature\[1\]"):
        materialize(request_of([np.zeros(1), object()]))


def test_a_source_outside_a_feature_is_named() -> None:
    given = request_of(np.zeros(1), model_specific_data={"grid": [mm.Source(b"")]})
    with pytest.raises(mm.MaterializeError, match=r"model_specific_data\.grid\[0\]"):
        materialize(given, process)
    with pytest.raises(mm.MaterializeError, match=r"request_data\.a"):
        materialize(mm.MultimodalInputs(request_data={"a": mm.Source(b"")}), process)


def test_a_frozen_item_with_a_source_is_still_materialized(photo: Path) -> None:
    given = request_of(mm.Source(photo), hash=3)
    given.items[0].freeze()
    (item,) = materialize(given, process).items
    assert item.feature.shape == (224, 224, 3)


@pytest.mark.asyncio
async def test_urls_are_fetched_at_the_same_time(photo: Path) -> None:
    waiting = 0
    all_wait = asyncio.Event()

    async def fetch(url: str) -> bytes:
        nonlocal waiting
        waiting += 1
        if waiting == 3:
            all_wait.set()
        await all_wait.wait()  # returns only when all three were asked for
        return photo.read_bytes()

    urls = [mm.Source(f"https://example.org/{index}") for index in range(3)]
    given = request_of(urls[:2], urls[2])
    out = await materialize_async(given, process, fetcher=fetch)
    assert len(out.items[0].feature) == 2
    assert out.items[1].feature.shape == (224, 224, 3)
    assert given.items[1].feature.kind == "url"


@pytest.mark.asyncio
async def test_the_loop_runs_on_while_a_thread_materializes(photo: Path) -> None:
    ticks: list[int] = []

    def slow(image: Image.Image) -> np.ndarray:
        # Ends only if the loop runs meanwhile.
        while len(ticks) < 3:
            pass
        return np.asarray(image)

    async def tick() -> None:
        while len(ticks) < 3:
            ticks.append(1)
            await asyncio.sleep(0)

    out, _ = await asyncio.gather(materialize_async(request_of(mm.Source(photo)), slow), tick())
    assert out.items[0].frozen


@pytest.mark.asyncio
async def test_a_fetcher_that_fails_names_the_item() -> None:
    async def fail(url: str) -> bytes:
        raise ConnectionError("refused")

    given = request_of(np.zeros(1), mm.Source("https://example.org/a"))
    with pytest.raises(mm.MaterializeError, match=r"refused - at \$\.items\[1\]\.feature"):
        await materialize_async(given, process, fetcher=fail)


def test_an_awaitable_in_the_synchronous_call_is_explained() -> None:
    async def fetch(url: str) -> bytes:
        return b""

    with pytest.raises(mm.MaterializeError) as caught:
        materialize(request_of(mm.Source("https://example.org/a")), process, fetcher=fetch)
    assert "materialize_async" in str(caught.value.hint)


def test_replacing_a_frozen_item_gives_one_that_can_be_changed(photo: Path) -> None:
    (item,) = materialize(request_of(mm.Source(photo)), process).items
    changed = replace(item, hash=None)
    assert not changed.frozen


# ------------------------------------------------- what encode carries, and what it does not carry


class _Point(NamedTuple):
    x: int
    y: int


_VALUES = {
    "complex": np.zeros(3, np.complex64),
    "empty dict": {},
    "dict of tensors": {"a": np.ones(2), "b": [np.zeros(1)]},
    "ints": [1, 2],
    "size": torch.Size([1, 2]),
    "ordered": OrderedDict(a=1),
    "named": _Point(1, 2),
    "text": "x",
    "modality": mm.Modality.IMAGE,
    "memoryview": memoryview(b"ab"),
    "set": {1},
    "object": object(),
}


@pytest.mark.parametrize("place", ["feature", "data", "request"])
@pytest.mark.parametrize("name", _VALUES)
def test_encode_and_materialize_take_the_same_values(name: str, place: str) -> None:
    value = _VALUES[name]
    item = mm.MultimodalDataItem(
        modality="IMAGE",
        feature=value if place == "feature" else np.zeros(2),
        model_specific_data={"x": value} if place == "data" else {},
    )
    inputs = mm.MultimodalInputs(
        items=[item], request_data={"x": value} if place == "request" else {}
    )
    try:
        mm.encode(inputs)
    except mm.MMFormatError:
        with pytest.raises(mm.MMFormatError):
            materialize(inputs)
        return
    mm.encode(materialize(inputs))
