"""Materialized inside the arena: where the bytes were written, what was allocated, what is left."""

from __future__ import annotations

import gc
import io
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import mmformat as mm
from mmformat._arrow import buffer_of
from mmformat.codec.verify import verify
from mmformat.media.image import (
    FixedSizeImageProcessor,
    LlavaImageProcessor,
    LlavaNextImageProcessor,
    PixelProcessor,
    QwenVLImageProcessor,
    TilesImageProcessor,
)
from mmformat.media.processors import processor_from_config
from mmformat.model.tensors import is_tensor, tensor_buffer
from mmformat.testing.equality import assert_inputs_equal
from tests.support import requests

QWEN = {"image_processor_type": "Qwen2VLImageProcessor", "max_pixels": 2**24}
ALL: list[PixelProcessor] = [
    QwenVLImageProcessor(max_pixels=2**24),
    FixedSizeImageProcessor(),
    LlavaImageProcessor(background=(1, 2, 3)),
    LlavaNextImageProcessor(),
    TilesImageProcessor(crop_to_patches=True),
]
NAMES = [type(each).__name__ for each in ALL]
ENCODINGS = [
    ("dictionary", "float32"),
    ("dictionary", "bfloat16"),
    ("plain", "float32"),
    ("plain", "float16"),
    ("plain", "bfloat16"),
]


@pytest.fixture
def arena() -> Iterator[mm.Arena]:
    with mm.Arena.create(nbytes=2**27, ranks=2) as made:
        yield made


def sources(photos: dict[str, Path]) -> list[Any]:
    turned = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # held upright: width and height change places
    Image.open(photos["coffee-600x400.jpg"]).save(turned, "JPEG", exif=exif)
    late = io.BytesIO()
    Image.open(photos["coffee-600x400.jpg"]).save(late, "PNG", exif=exif)
    tiff = io.BytesIO()  # Pillow says the size of one that is turned already
    Image.open(photos["coffee-600x400.jpg"]).save(tiff, "TIFF", exif=exif)
    return [
        photos["hubble-1000x872.jpg"],
        turned.getvalue(),
        late.getvalue(),
        tiff.getvalue(),
        np.random.default_rng(3).integers(0, 256, (90, 70, 4), np.uint8),
        Image.open(photos["coffee-600x400.jpg"]).convert("P"),
    ]


def request_of(*features: Any) -> mm.MultimodalInputs:
    data = {"mrope": torch.arange(48)}
    return requests.request_of(*features, offsets=[(3, 9)], request_data=data)


def addresses(value: Any) -> Iterator[tuple[int, int]]:
    """Yield where each tensor of a feature lies, and its bytes."""
    if isinstance(value, (list, tuple)):
        for part in value:
            yield from addresses(part)
    elif isinstance(value, mm.DictionaryTensor):
        yield from addresses(value.codes)
    elif is_tensor(value):
        buffer = tensor_buffer(value)
        yield buffer.address, buffer.size


def mapped_range(arena: mm.Arena, handle: Any) -> range:
    """Return the addresses of a slot in the producer."""
    base = np.frombuffer(arena._transport._mapping, np.uint8).ctypes.data
    return range(base + handle.offset, base + handle.offset + handle.nbytes)


@pytest.mark.parametrize("processor", ALL, ids=NAMES)
@pytest.mark.parametrize(("encoding", "dtype"), ENCODINGS)
def test_a_plan_says_what_comes(
    processor: PixelProcessor, encoding: Any, dtype: Any, photos: dict[str, Path]
) -> None:
    image = Image.open(photos["coffee-600x400.jpg"])
    plan = processor.plan(400, 600, encoding=encoding, dtype=dtype)
    out = plan.empty()
    made = processor(image, encoding=encoding, dtype=dtype, out=out)
    expected = processor(image, encoding=encoding, dtype=dtype)
    written = made.feature.codes if encoding == "dictionary" else made.feature
    assert written is out
    for left, right in ((made, expected), (plan, expected)):
        assert_inputs_equal(
            mm.MultimodalInputs(request_data=left.model_specific_data),
            mm.MultimodalInputs(request_data=right.model_specific_data),
        )
    assert bytes(tensor_buffer(plain(made))) == bytes(tensor_buffer(plain(expected)))
    assert plain(made).dtype == plain(expected).dtype


def plain(processed: Any) -> Any:
    feature = processed.feature
    return feature.expand() if isinstance(feature, mm.DictionaryTensor) else feature


@pytest.mark.parametrize("wrong", ["shape", "dtype", "strided"])
def test_a_destination_that_does_not_fit_is_refused(wrong: str) -> None:
    processor = FixedSizeImageProcessor()
    out = {
        "shape": np.empty((1, 3, 224, 223), np.uint8),
        "dtype": np.empty((1, 3, 224, 224), np.float32),
        "strided": np.empty((1, 3, 224, 448), np.uint8)[..., ::2],
    }[wrong]
    with pytest.raises(mm.MaterializeError) as caught:
        processor(np.zeros((30, 30, 3), np.uint8), out=out)
    assert caught.value.path == "$.out"


@pytest.mark.parametrize(("encoding", "dtype"), ENCODINGS)
def test_the_pixels_are_written_in_the_slot_and_equal_the_ordinary_way(
    arena: mm.Arena, encoding: Any, dtype: Any, photos: dict[str, Path]
) -> None:
    processor = processor_from_config(QWEN, encoding=encoding, dtype=dtype)
    given = sources(photos)
    inputs = request_of(*map(mm.Source, given[:3]), [mm.Source(each) for each in given[3:]])
    ordinary = mm.materialize(inputs, processor)
    handle, made = arena.materialize(inputs, processor)
    slot = mapped_range(arena, handle)
    places = [place for item in made.items for place in addresses(item.feature)]
    assert len(places) == len(given)
    for address, nbytes in places:
        assert address in slot and address + nbytes - 1 in slot
        assert (address - slot.start) % 64 == 0
    assert_inputs_equal(made, ordinary)
    for left, right in zip(made.items, ordinary.items, strict=True):
        assert (left.identity, left.hash, left.pad_value) == (
            right.identity,
            right.hash,
            right.pad_value,
        )
        assert left.frozen
    with mm.Arena.attach(handle, rank=0) as rank:
        out = rank.get(handle, expand=False)
        assert_inputs_equal(out, mm.decode(mm.encode(ordinary), expand=False))
        mapping = rank._transport.map(handle)
        assert verify(mapping) == []
        del out, mapping


def test_what_is_sealed_is_the_message_that_put_would_write(
    arena: mm.Arena, photos: dict[str, Path]
) -> None:
    """So that the ordinary way finds it again, and the other way round."""
    processor = processor_from_config(QWEN)
    inputs = request_of(mm.Source(photos["hubble-1000x872.jpg"]))
    first, _ = arena.materialize(inputs, processor)
    second = arena.put(mm.materialize(inputs, processor))
    third, _ = arena.materialize(inputs, processor)
    assert first.offset == second.offset == third.offset
    assert arena.stats().hits == 2


def test_no_tensor_is_allocated_beside_the_slot(arena: mm.Arena, photos: dict[str, Path]) -> None:
    """Pillow's own memory is not traced; numpy's is: no array of the codes' size is made."""
    processor = processor_from_config(QWEN)
    pixels = Image.open(photos["hubble-1000x872.jpg"]).convert("RGB").resize((2016, 1736))
    file = io.BytesIO()
    pixels.save(file, "JPEG")
    inputs = request_of(mm.Source(file.getvalue()))
    arena.materialize(inputs, processor)
    tracemalloc.start()
    result = arena.materialize(inputs, processor)
    _, in_place = tracemalloc.get_traced_memory()
    tracemalloc.reset_peak()
    ordinary = mm.materialize(inputs, processor)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    del result
    nbytes = ordinary.items[0].feature.codes.nbytes
    assert nbytes > 10_000_000
    # What is traced: a strip of planes, which stays in a core's cache, and small things.
    assert in_place < nbytes / 10
    assert peak > nbytes  # the measurement can tell


def test_read_only_is_what_ranks_may_be_reading(arena: mm.Arena) -> None:
    inputs = request_of(mm.Source(np.zeros((60, 60, 3), np.uint8)))
    _, made = arena.materialize(inputs, FixedSizeImageProcessor())
    with pytest.raises(ValueError, match="read-only"):
        made.items[0].feature.codes[...] = 1


class Failing(FixedSizeImageProcessor):
    """Fail after half of the codes are written."""

    __slots__ = ()

    def write(self, pixels: Image.Image, codes: Any) -> None:
        codes[:, 0] = 7
        raise RuntimeError("half-way")


@pytest.mark.parametrize(
    "case", ["truncated", "no image", "processor", "second", "too many pixels"]
)
def test_a_failure_gives_everything_back(
    arena: mm.Arena, case: str, photos: dict[str, Path]
) -> None:
    whole = photos["coffee-600x400.jpg"].read_bytes()
    good = mm.Source(whole)
    processor: Any = FixedSizeImageProcessor()
    if case == "truncated":
        inputs = request_of(mm.Source(whole[: len(whole) // 2]))
    elif case == "no image":
        inputs = request_of(mm.Source(b"nothing of the kind"))
    elif case == "processor":
        inputs, processor = request_of(good), Failing()
    elif case == "second":
        inputs = request_of(good, mm.Source(whole[: len(whole) // 2]))
    else:
        inputs = request_of(good, mm.Source(whole, max_pixels=10))
    before = arena.stats()
    with pytest.raises((mm.MaterializeError, mm.LimitError)) as caught:
        arena.materialize(inputs, processor)
    where = 1 if case in ("second", "too many pixels") else 0
    assert caught.value.path == f"$.items[{where}].feature"
    del caught
    gc.collect()
    assert arena.stats() == before


def test_a_full_arena_decodes_nothing(photos: dict[str, Path]) -> None:
    class Counting(QwenVLImageProcessor):
        __slots__ = ()
        calls = 0

        def write(self, pixels: Image.Image, codes: Any) -> None:
            Counting.calls += 1

    with mm.Arena.create(nbytes=2**16, ranks=1) as arena:
        with pytest.raises(mm.ArenaFullError):
            arena.materialize(
                request_of(mm.Source(photos["coffee-600x400.jpg"])), Counting(max_pixels=2**24)
            )
        assert Counting.calls == 0


def test_the_returned_arrays_keep_the_memory(arena: mm.Arena) -> None:
    inputs = request_of(mm.Source(np.full((60, 60, 3), 9, np.uint8)))
    before = arena.stats().free_nbytes
    handle, made = arena.materialize(inputs, FixedSizeImageProcessor())
    for reader in range(2):
        with mm.Arena.attach(handle, rank=reader) as rank:
            rank.release(handle)
    for _ in range(2):  # the first gives up the cache, and still there is not the room
        with pytest.raises(mm.ArenaFullError):
            arena._transport.reserve(2**27)
    assert (made.items[0].feature.codes == 9).all()
    assert arena.stats().free_nbytes < before
    del made
    gc.collect()
    assert arena.stats().free_nbytes == before


def test_what_cannot_be_planned_is_copied_in(arena: mm.Arena) -> None:
    """A processor of somebody else's, an item that was materialized before, a plain tensor."""
    old = mm.materialize(
        request_of(mm.Source(np.ones((40, 40, 3), np.uint8))), FixedSizeImageProcessor()
    ).items[0]
    clip = FixedSizeImageProcessor()
    inputs = mm.MultimodalInputs(
        items=[
            old,
            mm.MultimodalDataItem(modality="VIDEO", feature=mm.Source([1.5, 2.5], kind="medium")),
            mm.MultimodalDataItem(modality="IMAGE", feature=torch.arange(6.0)),
            mm.MultimodalDataItem(
                modality="IMAGE", feature=mm.Source(np.full((40, 40, 3), 3, np.uint8))
            ),
        ]
    )
    processors = {mm.Modality.IMAGE: clip, mm.Modality.VIDEO: np.asarray}
    handle, made = arena.materialize(inputs, processors)
    assert made.items[0] is old
    with mm.Arena.attach(handle, rank=0) as rank:
        assert_inputs_equal(
            rank.get(handle), mm.decode(mm.encode(mm.materialize(inputs, processors)))
        )
    nothing = mm.MultimodalInputs(items=inputs.items[:3])
    handle, made = arena.materialize(nothing, processors)
    with mm.Arena.attach(handle, rank=1) as rank:
        assert_inputs_equal(rank.get(handle), mm.decode(mm.encode(made)))


def test_names_that_came_with_an_item_are_kept(arena: mm.Arena) -> None:
    item = mm.MultimodalDataItem(
        modality="IMAGE",
        feature=mm.Source(np.zeros((60, 60, 3), np.uint8)),
        hash=-(2**80),
        identity="x" * 200,
    )
    handle, made = arena.materialize(mm.MultimodalInputs(items=[item]), FixedSizeImageProcessor())
    assert (made.items[0].hash, made.items[0].identity) == (-(2**80), "x" * 200)
    with mm.Arena.attach(handle, rank=0) as rank:
        assert rank.get(handle).items[0].hash == -(2**80)


def test_slots_are_given_back_without_the_collector(photos: dict[str, Path]) -> None:
    """One slot in use at a time, in an arena of three: any cycle would fill it."""
    processor = QwenVLImageProcessor(max_pixels=2**18)
    gc.disable()
    try:
        with (
            mm.Arena.create(nbytes=2**21, ranks=1) as arena,
            mm.Arena.attach(arena.name, rank=0) as rank,
        ):
            for value in range(12):
                pixels = np.full((500, 500, 3), value, np.uint8)
                handle, made = arena.materialize(request_of(mm.Source(pixels)), processor)
                out = rank.get(handle)
                assert out.items[0].feature.shape == made.items[0].feature.shape
                del out, made
    finally:
        gc.enable()


def test_buffers_are_where_arrow_says(arena: mm.Arena) -> None:
    """The address test above looks at the right memory."""
    with arena.reserve([((4,), "float32")]) as slot:
        address = buffer_of(slot._slot.view).address
        handle = slot.seal()
    assert mapped_range(arena, handle).start == address
