"""The public arena: what a producer and a rank in one process can see of its promises."""

from __future__ import annotations

import dataclasses
import gc
import os
import threading

import numpy as np
import pyarrow as pa
import pytest
import torch

import mmformat as mm
from mmformat._arrow import buffer_of


def image(rows: int = 64, *, identity: str | None = None, seed: int = 0) -> mm.MultimodalDataItem:
    generator = torch.Generator().manual_seed(seed)
    item = mm.MultimodalDataItem(
        modality=mm.Modality.IMAGE,
        feature=torch.randn(rows, 1176, generator=generator),
        offsets=[(3, 18)],
        model_specific_data={"image_grid_thw": torch.tensor([[1, 8, 8]])},
        identity=identity,
    )
    if identity is not None:
        item.freeze()  # as materialization does
    return item


def request_of(*items: mm.MultimodalDataItem) -> mm.MultimodalInputs:
    return mm.MultimodalInputs(items=list(items), request_data={"mrope": torch.arange(48)})


def changed(inputs: mm.MultimodalInputs, **fields: object) -> None:
    inputs.items[0] = dataclasses.replace(inputs.items[0], **fields)
    inputs.items[0].freeze()


@pytest.fixture
def arena():
    with mm.Arena.create(nbytes=2**24, ranks=2) as made:
        yield made


def test_a_rank_reads_what_was_put_bit_for_bit(arena: mm.Arena) -> None:
    inputs = request_of(image(), image(16))
    handle = arena.put(inputs)
    assert len(bytes(handle)) < 256
    with mm.Arena.attach(bytes(handle), rank=0) as rank:
        out = rank.get(bytes(handle))
        for sent, got in zip(inputs.items, out.items, strict=True):
            assert torch.equal(sent.feature, got.feature)
            assert got.offsets == [(3, 18)]
        assert torch.equal(out.request_data["mrope"], torch.arange(48))


def test_tensors_lie_in_the_mapping_on_64_bytes(arena: mm.Arena) -> None:
    handle = arena.put(request_of(image(rows=33), image(rows=7)))
    with mm.Arena.attach(handle, rank=0) as rank:
        mapping = rank._transport.map(handle)
        start = buffer_of(mapping).address
        out = mm.decode(mapping)
        for item in out.items:
            offset = item.feature.data_ptr() - start
            assert 0 < offset < handle.nbytes
            assert offset % 64 == 0
        del out, item, mapping


def test_a_get_allocates_no_tensor_bytes(arena: mm.Arena) -> None:
    handle = arena.put(request_of(image(rows=2000)))
    with mm.Arena.attach(handle, rank=0) as rank:
        rank.get(handle)
        before = pa.total_allocated_bytes()
        out = rank.get(arena.put(request_of(image(rows=1000))))
        assert pa.total_allocated_bytes() == before
        del out


def test_what_one_rank_writes_no_other_sees(arena: mm.Arena) -> None:
    inputs = request_of(image())
    handle = arena.put(inputs)
    with (
        mm.Arena.attach(handle, rank=0) as zero,
        mm.Arena.attach(handle, rank=1) as one,
    ):
        mine, theirs = zero.get(handle), one.get(handle)
        mine.items[0].feature.fill_(-1)
        assert torch.equal(theirs.items[0].feature, inputs.items[0].feature)
        assert torch.equal(zero.get(handle).items[0].feature, inputs.items[0].feature)
        del mine, theirs


def test_a_slot_is_held_by_the_last_tensor_and_no_longer(arena: mm.Arena) -> None:
    handle = arena.put(request_of(image()))
    with (
        mm.Arena.attach(handle, rank=0) as zero,
        mm.Arena.attach(handle, rank=1) as one,
    ):
        view = zero.get(handle).items[0].feature[3]
        one.release(handle)
        assert arena.stats().slots_granted == 1
        with pytest.raises(mm.TransportError) as caught:
            zero.release(handle)
        assert caught.value.code == "views-alive"
        del view
        gc.collect()
        assert arena.stats().slots_granted == 0
        with pytest.raises(mm.StaleHandleError):
            zero.get(handle)


def test_content_that_is_there_is_granted_without_a_copy(arena: mm.Arena) -> None:
    inputs = request_of(image(identity="a" * 64))
    first = arena.put(inputs)
    second = arena.put(inputs)
    assert (second.offset, second.nbytes) == (first.offset, first.nbytes)
    assert second.generation != first.generation or second.slot != first.slot
    stats = arena.stats()
    assert (stats.hits, stats.bytes_saved) == (1, first.nbytes)


@pytest.mark.parametrize(
    "change",
    [
        lambda inputs: changed(inputs, hash=5),
        lambda inputs: changed(inputs, offsets=[(4, 19)]),
        lambda inputs: changed(inputs, identity="b" * 64),
        lambda inputs: inputs.request_data.update(mrope=torch.arange(48) + 1),
        lambda inputs: inputs.items.append(image(identity="c" * 64)),
    ],
    ids=["hash", "offsets", "identity", "request tensor", "another item"],
)
def test_content_that_differs_anywhere_is_another(arena: mm.Arena, change) -> None:
    inputs = request_of(image(identity="a" * 64))
    first = arena.put(inputs)
    change(inputs)
    assert arena.put(inputs).offset != first.offset
    assert arena.stats().hits == 0


def test_content_without_identity_is_never_taken_for_other_content(arena: mm.Arena) -> None:
    first = arena.put(request_of(image(seed=1)))
    second = arena.put(request_of(image(seed=2)))
    assert first.offset != second.offset
    assert arena.stats().hits == 0


def test_a_full_arena_says_so_and_loses_nothing(arena: mm.Arena) -> None:
    small = [arena.put(request_of(image(rows=800, seed=n))) for n in range(4)]
    with pytest.raises(mm.ArenaFullError) as caught:
        arena.put(request_of(image(rows=800)), timeout_s=0.01)
    assert caught.value.hint
    with pytest.raises(mm.ArenaFullError, match="the whole arena"):
        arena.put(request_of(image(rows=4000)), timeout_s=10)
    with mm.Arena.attach(small[0], rank=0) as rank:
        for seed, handle in enumerate(small):
            assert torch.equal(rank.get(handle).items[0].feature, image(800, seed=seed).feature)


def test_an_item_that_cannot_travel_takes_no_room(arena: mm.Arena) -> None:
    before = arena.stats().free_nbytes
    bad = image()
    bad.model_specific_data["foo"] = object()
    with pytest.raises(mm.EncodeError, match=r"\$\.items\[0\]\.model_specific_data\['foo'\]"):
        arena.put(request_of(bad))
    assert arena.stats().free_nbytes == before


def test_compressed_messages_pass_through_as_well(arena: mm.Arena) -> None:
    inputs = request_of(image())
    inputs.items[0].feature = torch.arange(300_000).div(1000, rounding_mode="floor").float()
    options = mm.Compression(codec="lz4", threshold_nbytes=1000)
    handle = arena.put(inputs, compression=options)
    assert handle.nbytes < 1_200_000
    with mm.Arena.attach(handle, rank=0) as rank:
        assert torch.equal(rank.get(handle).items[0].feature, inputs.items[0].feature)


class TestReservation:
    """Tensors written where the message will have them."""

    def template(self) -> mm.MultimodalInputs:
        return request_of(
            mm.MultimodalDataItem(
                modality=mm.Modality.IMAGE,
                feature=mm.TensorSpec("bfloat16", (33, 1176)),
                model_specific_data={
                    "image_grid_thw": torch.tensor([[1, 3, 11]]),
                    "tiny": mm.TensorSpec("uint8", (5,)),
                    "nested": [mm.TensorSpec("float32", (7, 5)), {"none": None}],
                },
            )
        )

    def test_what_is_written_in_place_is_read_in_place(self, arena: mm.Arena) -> None:
        with arena.reserve(self.template()) as slot:
            expected = []
            for index, tensor in enumerate(slot.tensors):
                tensor.copy_(torch.randn(tensor.shape) + index)
                expected.append(tensor.clone())
            addresses = [tensor.data_ptr() for tensor in slot.tensors]
            base = buffer_of(slot._slot.view).address
            slot.inputs.items[0].hash = 2**64 - 1
            slot.inputs.items[0].identity = "d" * 64
            handle = slot.seal()
        with mm.Arena.attach(handle, rank=0) as rank:
            mapping = rank._transport.map(handle)
            start = buffer_of(mapping).address
            item = mm.decode(mapping).items[0]
            got = [
                item.feature,
                item.model_specific_data["tiny"],
                item.model_specific_data["nested"][0],
            ]
            for index in (0, 2):
                assert got[index].data_ptr() - start == addresses[index] - base
                assert (got[index].data_ptr() - start) % 64 == 0
            for mine, theirs in zip(expected, got, strict=True):
                assert mine.dtype == theirs.dtype
                assert torch.equal(mine.view(torch.uint8), theirs.view(torch.uint8))
            assert (item.hash, item.identity) == (2**64 - 1, "d" * 64)
            del item, got, mapping

    def test_sealing_copies_no_byte_of_what_was_written(self, arena: mm.Arena) -> None:
        with arena.reserve([((1000, 1176), "float32")], library="numpy") as slot:
            slot.tensors[0][:] = np.arange(1176, dtype=np.float32)
            # Were the seal to copy the tensor from anywhere, this would be lost.
            slot.tensors[0][999, 1175] = -5
            before = pa.total_allocated_bytes()
            handle = slot.seal()
            assert pa.total_allocated_bytes() == before
        with mm.Arena.attach(handle, rank=0) as rank:
            assert rank.get(handle).items[0].feature[999, 1175] == -5

    def test_other_inputs_may_be_sealed_around_the_tensors(self, arena: mm.Arena) -> None:
        with arena.reserve([((3, 256), "float32"), ((4, 3, 50), "uint8")]) as slot:
            table, codes = slot.tensors
            table.copy_(torch.randn(3, 256))
            codes.random_(0, 256)
            dictionary = mm.DictionaryTensor(codes, table, axis=1)
            expected = dictionary.expand()
            item = mm.MultimodalDataItem(modality="VIDEO", feature=dictionary)
            handle = slot.seal(mm.MultimodalInputs(items=[item]))
            del dictionary, item
        with mm.Arena.attach(handle, rank=0) as rank:
            assert torch.equal(rank.get(handle).items[0].feature, expected)

    def test_tensors_in_another_order_are_refused(self, arena: mm.Arena) -> None:
        with arena.reserve([((100,), "float32"), ((100,), "float32")]) as slot:
            item = mm.MultimodalDataItem(modality="IMAGE", feature=slot.tensors[::-1])
            with pytest.raises(mm.EncodeError) as caught:
                slot.seal(mm.MultimodalInputs(items=[item]))
            assert caught.value.code == "reservation"

    def test_a_rest_that_outgrows_the_headroom_is_refused(self, arena: mm.Arena) -> None:
        with arena.reserve([((100,), "float32")], headroom_nbytes=64) as slot:
            slot.inputs.items[0].model_specific_data["text"] = "x" * 500
            with pytest.raises(mm.EncodeError) as caught:
                slot.seal()
            assert caught.value.code == "headroom"

    def test_what_is_not_sealed_is_given_back(self, arena: mm.Arena) -> None:
        before = arena.stats().free_nbytes
        with arena.reserve([((1000, 1176), "float32")]) as slot:
            assert arena.stats().free_nbytes < before
        del slot
        gc.collect()
        assert arena.stats().free_nbytes == before


@pytest.mark.parametrize("wrong", [b"", b"nonsense" * 8, 5, None, "mmf-../../etc/passwd"])
def test_what_is_no_handle_is_refused_by_name(wrong: object) -> None:
    with pytest.raises(mm.TransportError):
        mm.Arena.attach(wrong, rank=0)


def test_a_thousand_rounds_leave_nothing_behind(arena: mm.Arena) -> None:
    inputs = request_of(image(rows=200))
    with (
        mm.Arena.attach(arena.name, rank=0) as zero,
        mm.Arena.attach(arena.name, rank=1) as one,
    ):
        for _ in range(1000):
            handle = arena.put(inputs)
            a, b = zero.get(handle), one.get(handle)
            assert a.items[0].feature[0, 0] == b.items[0].feature[0, 0]
            del a, b
        assert arena.wait_released(timeout_s=5)
        assert arena.stats().free_nbytes == 2**24


def test_a_full_arena_may_fall_back_to_the_message_itself() -> None:
    inputs = request_of(image(rows=800))
    with mm.Arena.create(nbytes=2**22, ranks=1) as arena:
        first = arena.put(inputs, on_full="inline")
        second = arena.put(inputs, on_full="inline")
        assert isinstance(second, mm.EncodedMessage)
        with mm.Arena.attach(arena.name, rank=0) as rank:
            for announced in (first, second):
                out = rank.get(announced)
                assert torch.equal(out.items[0].feature, inputs.items[0].feature)


@pytest.mark.parametrize("backing", ["memfd", "file"])
def test_an_arena_need_not_be_in_dev_shm(backing: str, tmp_path) -> None:
    inputs = request_of(image())
    directory = tmp_path if backing == "file" else None
    with mm.Arena.create(nbytes=2**22, ranks=1, backing=backing, directory=directory) as arena:
        handle = arena.put(inputs)
        with mm.Arena.attach_fd(arena.fileno(), rank=0) as rank:
            assert torch.equal(rank.get(handle).items[0].feature, inputs.items[0].feature)
    assert not list(tmp_path.iterdir())


def test_a_rank_may_start_before_its_producer() -> None:
    name = f"mmf-{os.getuid()}-{os.getpid()}-0-early"
    with pytest.raises(mm.TransportError) as caught:
        mm.Arena.attach(name, rank=0, timeout_s=0.02)
    assert caught.value.code == "segment-gone"
    made: list[mm.Arena] = []
    producer = threading.Timer(
        0.1, lambda: made.append(mm.Arena.create(nbytes=2**20, ranks=1, name=name))
    )
    producer.start()
    with mm.Arena.attach(name, rank=0, timeout_s=10) as rank:
        assert rank.producer_alive
    producer.join()
    made[0].close()


def test_an_item_that_was_changed_after_materialization_is_not_taken_for_the_old(
    arena: mm.Arena,
) -> None:
    """What `dataclasses.replace` keeps of a frozen item's identity is not believed."""
    old = request_of(image(identity="a" * 64))
    feature = old.items[0].feature.clone()
    feature[5] = -1
    new = request_of(dataclasses.replace(old.items[0], feature=feature))
    arena.put(old)
    handle = arena.put(new)
    with mm.Arena.attach(handle, rank=0) as rank:
        assert torch.equal(rank.get(handle).items[0].feature, feature)


def test_release_after_the_last_view_is_gone_changes_nothing(arena: mm.Arena) -> None:
    handle = arena.put(request_of(image()))
    with mm.Arena.attach(handle, rank=0) as rank:
        out = rank.get(handle)
        del out
        rank.release(handle)
        rank.release(handle)
        with pytest.raises(mm.StaleHandleError):
            rank.get(handle)


def test_reservations_need_no_garbage_collector() -> None:
    """One slot in use at a time, in an arena of six: any cycle would fill it."""
    gc.disable()
    try:
        with (
            mm.Arena.create(nbytes=2**24, ranks=1) as arena,
            mm.Arena.attach(arena.name, rank=0) as rank,
        ):
            for number in range(50):
                with arena.reserve([((700_000,), "float32")], library="numpy") as slot:
                    slot.tensors[0][:] = number
                    handle = slot.seal()
                del slot
                out = rank.get(handle)
                assert out.items[0].feature[-1] == number
                del out
            with arena.reserve([((700_000,), "float32")]) as abandoned:
                pass
            del abandoned
            assert arena.stats().free_nbytes == 2**24
    finally:
        gc.enable()


@pytest.mark.parametrize(
    "call",
    [
        lambda arena: mm.Arena.create(nbytes="1", ranks=1),
        lambda arena: mm.Arena.create(nbytes=2.5e6, ranks=1),
        lambda arena: mm.Arena.create(nbytes=2**20, ranks=None),
        lambda arena: mm.Arena.attach(arena.name, rank="0"),
        lambda arena: mm.Arena.attach(arena.name, rank=1.0),
        lambda arena: arena.put(request_of(image()), timeout_s=float("nan")),
        lambda arena: arena.put(request_of(image()), timeout_s=None),
        lambda arena: arena.put(request_of(image()), on_full="x"),
        lambda arena: arena.put(None),
        lambda arena: arena.reserve([(2, "float32")]),
        lambda arena: arena.reserve(["x"]),
        lambda arena: arena.reserve([((-1,), "float32")]),
        lambda arena: arena.reserve([((2**62,), "float32")]),
        lambda arena: arena.reserve([((2,), "string")]),
        lambda arena: arena.reserve([((2,), "float32")], library="jax"),
        lambda arena: arena.reserve([((2,), "float32")]).seal(identity="text"),
    ],
)
def test_slips_are_named_by_errors_of_our_own(arena: mm.Arena, call) -> None:
    with pytest.raises(mm.MMFormatError):
        call(arena)
    gc.collect()
    assert arena.stats().free_nbytes == 2**24


def test_revoke_refuses_the_handle_of_another_arena() -> None:
    with (
        mm.Arena.create(nbytes=2**20, ranks=1) as one,
        mm.Arena.create(nbytes=2**20, ranks=1) as two,
        mm.Arena.attach(one.name, rank=0) as rank,
    ):
        mine = one.put(mm.MultimodalInputs(request_data={"v": 1}))
        other = two.put(mm.MultimodalInputs(request_data={"v": 2}))
        with pytest.raises(mm.TransportError) as caught:
            one.revoke(other)
        assert caught.value.code == "arena-argument"
        assert rank.get(mine).request_data == {"v": 1}


def test_a_reserve_that_cannot_succeed_evicts_nothing() -> None:
    def make(value: int, count: int = 20_000) -> mm.MultimodalInputs:
        feature = np.full(count, value, np.float32)
        item = mm.MultimodalDataItem(modality="IMAGE", feature=feature)
        return mm.materialize(mm.MultimodalInputs(items=[item]))

    with (
        mm.Arena.create(nbytes=2**20, ranks=1) as arena,
        mm.Arena.attach(arena.name, rank=0) as rank,
    ):
        held = rank.get(arena.put(make(99)))
        for value in range(6):
            rank.get(arena.put(make(value)))
        before = arena.stats().cached_nbytes
        assert before > 0
        with pytest.raises(mm.ArenaFullError):
            arena.put(make(100, 260_000))
        assert arena.stats().cached_nbytes == before
        assert arena.stats().evictions == 0
        assert held.items[0].feature[0] == 99


def test_get_after_prefetch_heeds_its_own_arguments() -> None:
    item = mm.MultimodalDataItem(modality="IMAGE", feature=torch.ones(100))
    inputs = mm.MultimodalInputs(items=[item, item])
    with (
        mm.Arena.create(nbytes=2**20, ranks=1) as arena,
        mm.Arena.attach(arena.name, rank=0) as rank,
    ):
        handle = arena.put(inputs)
        rank.prefetch([handle])
        assert isinstance(rank.get(handle, library="numpy").items[0].feature, np.ndarray)
        handle = arena.put(inputs)
        rank.prefetch([handle])
        with pytest.raises(mm.LimitError):
            rank.get(handle, limits=mm.Limits(items=1))


def test_a_restarted_rank_waits_for_its_predecessors_number() -> None:
    with mm.Arena.create(nbytes=2**16, ranks=1) as arena:
        predecessor = mm.Arena.attach(arena.name, rank=0)
        with pytest.raises(mm.TransportError) as caught:
            mm.Arena.attach(arena.name, rank=0)
        assert caught.value.code == "reader-taken"
        ending = threading.Timer(0.2, predecessor.close)
        ending.start()
        try:
            with mm.Arena.attach(arena.name, rank=0, timeout_s=60.0) as rank:
                handle = arena.put(mm.MultimodalInputs(request_data={"a": 1}))
                assert rank.get(handle, device="cpu:0").request_data == {"a": 1}
        finally:
            ending.join()


@pytest.mark.parametrize("wrong", [{"library": "bogus"}, {"limits": 3}], ids=["library", "limits"])
def test_a_wrong_argument_does_not_cost_the_slot(wrong: dict[str, object]) -> None:
    inputs = mm.MultimodalInputs(request_data={"a": 1})
    with (
        mm.Arena.create(nbytes=2**16, ranks=1) as arena,
        mm.Arena.attach(arena.name, rank=0) as rank,
    ):
        handle = arena.put(inputs)
        with pytest.raises(mm.ModelError):
            rank.get(handle, **wrong)  # type: ignore[arg-type]
        assert rank.get(handle).request_data == {"a": 1}
