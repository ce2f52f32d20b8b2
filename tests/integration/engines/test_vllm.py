"""vLLM's real classes, encoder and decoder."""

from __future__ import annotations

import copy
import gc
import multiprocessing
import pickle
import socket
from typing import Any

import hypothesis.strategies as st
import msgspec
import pytest
import torch
from hypothesis import given, settings

import mmformat as mm
from mmformat.adapters.vllm import (
    attach,
    from_mmformat,
    mm_decoder,
    mm_encoder,
    shared,
    shared_item,
    to_mmformat,
)
from mmformat.adapters.vllm.returns import ReturnedHandles, give_back
from tests.integration.engines.real import module, needs
from tests.integration.engines.sameness import difference

needs("vllm")

inputs = module("vllm.multimodal.inputs")
serial = module("vllm.v1.serial_utils")
serial.PIN_MEMORY = False

pytestmark = [
    pytest.mark.timeout(600),
    # vLLM's own decoder over bytes that may not be written to.
    pytest.mark.filterwarnings("ignore:The given buffer is not writable:UserWarning"),
]

ENDS_S = 200.0
"""vLLM's interpreters take long to end on a machine that does much else."""

DTYPES = [torch.float32, torch.bfloat16, torch.uint8, torch.int64, torch.bool]
KEYS = ["pixel_values", "image_grid_thw", "image_embeds", "input_features", "second_per_grid_ts"]

slices = st.builds(slice, st.none() | st.integers(0, 9), st.none() | st.integers(0, 9), st.none())
fields = st.one_of(
    st.builds(inputs.MultiModalBatchedField, keep_on_cpu=st.booleans()),
    st.builds(inputs.MultiModalSharedField, batch_size=st.integers(1, 4)),
    st.builds(
        inputs.MultiModalFlatField,
        slices=st.lists(slices, max_size=3) | st.lists(st.lists(slices, max_size=2), max_size=2),
        dim=st.integers(-2, 2),
        keep_on_cpu=st.booleans(),
    ),
)


@st.composite
def tensors(draw: Any) -> Any:
    shape = draw(st.lists(st.integers(0, 20), max_size=3).map(tuple))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    return torch.randint(0, 2, shape, generator=generator).to(draw(st.sampled_from(DTYPES)))


nested = st.recursive(tensors(), lambda inner: st.lists(inner, max_size=3), max_leaves=4)
data = st.none() | nested | st.integers(0, 9) | st.floats(allow_nan=False)
elems = st.builds(inputs.MultiModalFieldElem, data=data, field=fields)
keys = st.sampled_from(KEYS) | st.text("abc_", min_size=1, max_size=5)
items = st.dictionaries(keys, elems, max_size=4).map(inputs.MultiModalKwargsItem)
modalities = st.sampled_from(["image", "video", "audio", "vision_chunk"])
grouped = st.dictionaries(modalities, st.lists(st.none() | items, max_size=2), max_size=3)
places = st.builds(
    inputs.PlaceholderRange,
    offset=st.integers(0, 99),
    length=st.integers(0, 99),
    is_embed=st.none() | tensors(),
)
features = st.builds(
    inputs.MultiModalFeatureSpec,
    data=st.none() | items,
    modality=modalities,
    identifier=st.text(max_size=9),
    mm_position=places,
    mm_hash=st.none() | st.text(max_size=9),
)


def through_bytes(obj: Any) -> mm.MultimodalInputs:
    return mm.decode(bytes(mm.encode(to_mmformat(obj))))


@settings(max_examples=150)
@given(items)
def test_an_item_comes_back_as_it_went(item: Any) -> None:
    back = from_mmformat(through_bytes(item), inputs.MultiModalKwargsItem)
    assert difference(item, back) is None


@settings(max_examples=100)
@given(grouped.map(inputs.MultiModalKwargsItems))
def test_items_by_modality_come_back_as_they_went(made: Any) -> None:
    assert difference(made, from_mmformat(through_bytes(made))) is None


@settings(max_examples=150)
@given(st.lists(features, max_size=3))
def test_features_come_back_as_they_went(made: list[Any]) -> None:
    back = from_mmformat(through_bytes(made), inputs.MultiModalFeatureSpec)
    assert difference(made, back) is None


def request(item: Any) -> Any:
    engine = module("vllm.v1.engine")
    feature = inputs.MultiModalFeatureSpec(
        data=item,
        modality="image",
        identifier="abc",
        mm_position=inputs.PlaceholderRange(offset=3, length=5, is_embed=torch.ones(5) > 0),
        mm_hash="abc",
    )
    return engine.EngineCoreRequest(
        request_id="r1",
        prompt_token_ids=[1, 2, 3],
        mm_features=[feature],
        sampling_params=module("vllm.sampling_params").SamplingParams(max_tokens=3),
        pooling_params=None,
        arrival_time=1.5,
        lora_request=None,
        cache_salt=None,
        data_parallel_rank=None,
    )


def picture(*, rows: int = 300, dtype: torch.dtype = torch.float32) -> Any:
    generator = torch.Generator().manual_seed(5)
    return inputs.MultiModalKwargsItem(
        {
            "pixel_values": inputs.MultiModalFieldElem(
                data=torch.randn(rows, 1176, generator=generator).to(dtype),
                field=inputs.MultiModalFlatField(slices=[slice(0, rows)], dim=0),
            ),
            "image_grid_thw": inputs.MultiModalFieldElem(
                data=torch.tensor([1, 15, 20]),
                field=inputs.MultiModalBatchedField(keep_on_cpu=True),
            ),
        }
    )


@pytest.mark.parametrize("share_mem", [True, False])
def test_a_request_through_both_encoders_is_the_same(share_mem: bool) -> None:
    engine = module("vllm.v1.engine").EngineCoreRequest
    original = request(picture())
    theirs = serial.MsgpackDecoder(engine, share_mem=share_mem).decode(
        serial.MsgpackEncoder().encode(original)
    )
    ours = mm_decoder(engine, share_mem=share_mem).decode(mm_encoder().encode(original))
    assert difference(original.mm_features, ours.mm_features) is None
    assert difference(theirs.mm_features, ours.mm_features) is None
    assert (ours.request_id, ours.sampling_params) == (theirs.request_id, theirs.sampling_params)


@settings(max_examples=60)
@given(items)
def test_any_item_comes_through_the_frames(item: Any) -> None:
    frames = [bytes(frame) for frame in mm_encoder().encode(item)]
    back = mm_decoder(inputs.MultiModalKwargsItem).decode(frames)
    assert difference(item, back) is None


def test_the_encoder_copies_no_large_tensor() -> None:
    item = picture()
    frames = mm_encoder().encode(item)
    addresses = {torch.frombuffer(f, dtype=torch.uint8).data_ptr() for f in frames[1:] if len(f)}
    assert item["pixel_values"].data.data_ptr() in addresses


def test_the_decoder_reads_what_the_engines_encoder_wrote() -> None:
    item = picture()
    back = mm_decoder(inputs.MultiModalKwargsItem).decode(serial.MsgpackEncoder().encode(item))
    assert difference(item, back) is None


def test_frames_that_are_not_there_are_refused() -> None:
    """msgspec says that it was a ValidationError, as of anything that a hook raises."""
    first, *_ = mm_encoder().encode(picture())
    with pytest.raises(msgspec.ValidationError, match="the place of an item's frames") as caught:
        mm_decoder(inputs.MultiModalKwargsItem).decode([first])
    assert isinstance(caught.value.__cause__, mm.DecodeError)


def _worker(rank: int, tasks: Any, answers: Any) -> None:
    module("vllm.multimodal.inputs")
    readers = attach(rank)
    answers.put("ready")
    while (item := tasks.get()) is not None:
        answers.put(
            (rank, float(item["pixel_values"].data.double().sum()), len(pickle.dumps(item)))
        )
        del item
    readers.close()


def test_a_handle_crosses_the_engine_to_every_worker() -> None:
    """API server -> engine core (which does not look inside) -> workers, by the engine's pickle."""
    spawn = multiprocessing.get_context("spawn")
    queues, answers = [spawn.Queue() for _ in range(2)], spawn.Queue()
    workers = [
        spawn.Process(target=_worker, args=(rank, queue, answers), daemon=True)
        for rank, queue in enumerate(queues)
    ]
    for worker in workers:
        worker.start()
    assert [answers.get(timeout=400) for _ in workers] == ["ready"] * 2
    engine = module("vllm.v1.engine").EngineCoreRequest
    item = picture()
    with mm.Arena.create(nbytes=2**24, ranks=2) as arena:
        frames = mm_encoder(arena=arena).encode(request(item))
        assert sum(len(frame) for frame in frames) < 1024
        shared = mm_decoder(engine).decode(frames).mm_features[0].data
        assert isinstance(shared, inputs.MultiModalKwargsItem)
        assert len(pickle.dumps(shared)) < 512
        with pytest.raises(mm.MMFormatError, match="expected a process that reads the arena"):
            shared["pixel_values"]
        for queue in queues:
            queue.put(shared)
        expected = float(item["pixel_values"].data.double().sum())
        found = [answers.get(timeout=120) for _ in workers]
        assert sorted(found)[0][:2] == (0, expected)
        assert sorted(found)[1][:2] == (1, expected)
        assert arena.wait_released(timeout_s=5.0)
        for queue in queues:
            queue.put(None)
        for worker in workers:
            worker.join(ENDS_S)
            assert worker.exitcode == 0


def test_an_item_that_is_dropped_unopened_releases_its_slot() -> None:
    with mm.Arena.create(nbytes=2**24, ranks=1) as arena:
        readers = attach(0)
        handle = bytes(arena.put(to_mmformat(picture())))
        item = shared_item(handle)
        assert arena.stats().slots_granted == 1
        del item
        assert arena.wait_released(timeout_s=2.0)
        readers.close()


def _core(tasks: Any, workers: list[Any], answers: Any) -> None:
    """Do to requests what vLLM's engine core does, with its own classes."""
    engine = module("vllm.v1.engine").EngineCoreRequest
    made = module("vllm.v1.request").Request
    scheduled = module("vllm.v1.core.sched.output").NewRequestData
    decoder = mm_decoder(engine)
    answers.put("ready")
    while (task := tasks.get()) is not None:
        frames, what = task
        waiting = made.from_engine_core_request(decoder.decode(frames), None)
        if what == "aborted while it waits":
            del waiting
        elif what == "broken":
            with pytest.raises(msgspec.DecodeError):
                decoder.decode([frames[0][:-9], *frames[1:]])
            del waiting
        else:
            waiting.num_computed_tokens = 8 if what == "prefix is cached" else 0
            data = scheduled.from_request(waiting, ([],), uses_mrope=True)
            for worker in workers:
                worker.put(data.mm_features[0].data)
            if what == "aborted once it was sent":
                del waiting, data
        answers.put(what)


WAYS_OF_A_REQUEST = [
    "aborted while it waits", "prefix is cached", "aborted once it was sent", "runs", "broken",
]  # fmt: skip


def _ranks(rank: int, items: Any, orders: Any, answers: Any) -> None:
    module("vllm.multimodal.inputs")
    readers = attach(rank)
    answers.put("ready")
    while (opens := orders.get()) is not None:
        item = items.get()
        if opens:
            item["pixel_values"].data.sum()
        del item
        answers.put(rank)
    readers.close()


def test_no_way_that_a_request_ends_holds_its_slot() -> None:
    """Aborted before a worker was told: the engine core gives it back, and nobody else does."""
    spawn = multiprocessing.get_context("spawn")
    tasks, answers = spawn.Queue(), spawn.Queue()
    queues, orders = [spawn.Queue() for _ in range(2)], [spawn.Queue() for _ in range(2)]
    processes = [spawn.Process(target=_core, args=(tasks, queues, answers), daemon=True)]
    processes += [
        spawn.Process(target=_ranks, args=(rank, queues[rank], orders[rank], answers), daemon=True)
        for rank in range(2)
    ]
    for process in processes:
        process.start()
    assert [answers.get(timeout=400) for _ in processes] == ["ready"] * 3
    with mm.Arena.create(nbytes=2**24, ranks=2) as arena:
        encoder = mm_encoder(arena=arena)
        for what in WAYS_OF_A_REQUEST * 3:
            frames = [bytes(frame) for frame in encoder.encode(request(picture()))]
            assert arena.stats().slots_granted == 1
            tasks.put((frames, what))
            assert answers.get(timeout=120) == what
            early = what in ("aborted while it waits", "broken")
            if early:
                assert encoder.returns.collect() == (2 if what == "broken" else 1)
            else:
                assert encoder.returns.collect() == 0
                assert arena.stats().slots_granted == 1  # the workers have it
                for order in orders:
                    order.put(what == "runs")
                assert sorted(answers.get(timeout=120) for _ in orders) == [0, 1]
            assert arena.wait_released(timeout_s=5.0), what
            assert encoder.returns.collect() == 0
        encoder.returns.close()
    for queue in (tasks, *orders):
        queue.put(None)
    for process in processes:
        process.join(ENDS_S)
        assert process.exitcode == 0


def test_only_a_handle_of_this_arena_and_of_this_user_is_taken_back() -> None:
    with (
        mm.Arena.create(nbytes=2**20, ranks=1) as arena,
        mm.Arena.create(nbytes=2**20, ranks=1) as other,
    ):
        returns = ReturnedHandles(arena)
        inside = arena.put(to_mmformat(picture(rows=3)))
        outside = other.put(to_mmformat(picture(rows=3)))
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as stranger:
            parts = (bytes(outside), bytes(inside)[:-1], b"x" * 400)
            framed = [len(part).to_bytes(2, "little") + part for part in parts]
            for data in (*framed, bytes(inside), b"", b"x" * 400):
                stranger.sendto(data, b"\0mmformat-returns-" + arena.name.encode())
        assert returns.collect() == 0
        assert arena.stats().slots_granted == other.stats().slots_granted == 1
        give_back(bytes(inside))
        give_back(bytes(inside))
        assert returns.collect() == 2
        assert arena.stats().slots_granted == 0
        returns.close()
        give_back(bytes(outside))  # nobody listens: nothing happens


@pytest.mark.parametrize("trusts", [False, True])
def test_equal_identifiers_are_copied_once_where_hashes_are_trusted(trusts: bool) -> None:
    with mm.Arena.create(nbytes=2**24, ranks=1) as arena:
        encoder = mm_encoder(arena=arena, trusts_hashes=trusts)
        handles = []
        for _ in range(2):
            frames = encoder.encode(request(picture()))
            engine = module("vllm.v1.engine").EngineCoreRequest
            handles.append(mm_decoder(engine).decode(frames).mm_features[0].data.handle)
        assert (handles[0] != handles[1], arena.stats().hits) == (True, int(trusts))
        encoder.returns.close()


def decoded(frames: Any) -> Any:
    engine = module("vllm.v1.engine").EngineCoreRequest
    return mm_decoder(engine).decode([bytes(frame) for frame in frames])


@pytest.fixture
def unattached(monkeypatch: pytest.MonkeyPatch) -> None:
    """Be a process that reads no arena, whatever tests before did."""
    monkeypatch.setattr(shared, "_HERE", {})


@pytest.mark.usefixtures("unattached")
def test_an_unopened_item_answers_what_the_engine_core_asks() -> None:
    original = picture()
    with mm.Arena.create(nbytes=2**24, ranks=1) as arena:
        encoder = mm_encoder(arena=arena)
        feature = decoded(encoder.encode(request(original))).mm_features[0]
        item = feature.data
        assert len(item) == 2
        assert bool(item)
        assert item == item  # noqa: PLR0124 - its own __eq__
        assert item != original
        assert "pixel_values" in item
        assert "other" not in item
        assert copy.copy(item) is copy.deepcopy(item) is item
        assert pickle.loads(pickle.dumps(item)).handle == item.handle
        assert "image_grid_thw" in repr(feature)
        assert item["image_grid_thw"].data.tolist() == [1, 15, 20]
        assert item["image_grid_thw"].field.keep_on_cpu
        found = item.get_data()
        assert found["pixel_values"] is None
        assert found["image_grid_thw"].tolist() == [1, 15, 20]
        with pytest.raises(mm.TransportError, match="'pixel_values' cannot be read"):
            item["pixel_values"]
        encoder.returns.close()


def test_a_picture_is_found_again_next_to_other_pictures() -> None:
    first = picture()
    field = inputs.MultiModalFlatField(slices=[slice(0, 7), slice(7, 307)], dim=0)
    data = first["pixel_values"].data.clone()
    elem = inputs.MultiModalFieldElem(data=data, field=field)
    again = inputs.MultiModalKwargsItem({**first.data, "pixel_values": elem})
    with mm.Arena.create(nbytes=2**24, ranks=1) as arena:
        encoder = mm_encoder(arena=arena, trusts_hashes=True)
        encoder.encode(request(first))
        encoder.encode(request(again))
        assert arena.stats().hits == 1
        encoder.returns.close()


def test_share_puts_large_items_once_and_leaves_the_callers_request_alone() -> None:
    seen: list[tuple[str, int, float]] = []
    large, small, huge = picture(), picture(rows=2), picture(rows=9000)
    with mm.Arena.create(nbytes=2**24, ranks=1) as arena:
        encoder = mm_encoder(
            arena=arena,
            inline_below_nbytes=100_000,
            observe=lambda *values: seen.append(values),
        )
        back = []
        for item in (large, small, huge):
            original = request(item)
            frames = encoder.encode(encoder.share(original))
            assert original.mm_features[0].data is item
            back.append(decoded(frames).mm_features[0].data)
        assert [way for way, _, _ in seen] == ["handle", "inline", "fallback"]
        assert [nbytes for _, nbytes, _ in seen] == [
            sum(elem.data.nbytes for elem in item.values()) for item in (large, small, huge)
        ]
        assert back[0].handle
        assert difference(small, back[1]) is None
        assert difference(huge, back[2]) is None
        encoder.returns.close()


@pytest.mark.usefixtures("unattached")
def test_a_shared_request_that_is_never_sent_frees_its_slot() -> None:
    with mm.Arena.create(nbytes=2**24, ranks=1) as arena:
        encoder = mm_encoder(arena=arena)
        made = encoder.share(request(picture()))
        assert arena.stats().slots_granted == 1
        del made
        gc.collect()
        assert encoder.returns.collect() == 1
        assert arena.stats().slots_granted == 0
        encoder.returns.close()


def test_what_does_not_fit_goes_the_engines_own_way() -> None:
    item = picture()
    with mm.Arena.create(nbytes=2**16, ranks=1) as arena:
        frames = mm_encoder(arena=arena).encode(item)
    assert difference(item, mm_decoder(inputs.MultiModalKwargsItem).decode(frames)) is None


def test_an_item_of_another_origin_is_refused() -> None:
    item = mm.MultimodalDataItem(modality="IMAGE", feature=torch.ones(3))
    with pytest.raises(mm.ModelError, match="came from vLLM"):
        from_mmformat(mm.MultimodalInputs(items=[item]), inputs.MultiModalKwargsItem)
    with pytest.raises(mm.ModelError, match="expected vLLM's multimodal inputs, got int"):
        to_mmformat(3)
