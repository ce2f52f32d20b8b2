"""Requests whose items lie in slots of their own: what is copied, held, released, refused."""

from __future__ import annotations

import dataclasses
import gc
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import mmformat as mm
from mmformat.arena import composed as share_composed
from mmformat.arena.index import pack_index, unpack_index
from mmformat.arena.multi_slot import SHARED_FROM_NBYTES, ItemSlots
from mmformat.cuda.pending_inputs import JoinedInputs, PendingInputs
from mmformat.media.image import QwenVLImageProcessor
from mmformat.shm import Handle
from mmformat.testing.equality import assert_inputs_equal

ROWS = 100  # of 1,176 float32: 470 KB
NBYTES = ROWS * 1176 * 4


def image(seed: int, *, rows: int = ROWS, library: str = "torch") -> mm.MultimodalDataItem:
    feature: Any = torch.randn(rows, 1176, generator=torch.Generator().manual_seed(seed))
    return mm.MultimodalDataItem(
        modality=mm.Modality.IMAGE,
        feature=feature.numpy() if library == "numpy" else feature,
        offsets=[(seed, seed + 15)],
        model_specific_data={"image_grid_thw": torch.tensor([[1, 10, 10]])},
    )


def request_of(*items: mm.MultimodalDataItem) -> mm.MultimodalInputs:
    inputs = mm.materialize(mm.MultimodalInputs(items=list(items)))
    inputs.request_data = {"mrope": torch.arange(48)}
    return inputs


@pytest.fixture
def arena() -> Iterator[mm.Arena]:
    with mm.Arena.create(nbytes=2**23, ranks=2) as made:
        yield made


@pytest.fixture
def ranks(arena: mm.Arena) -> Iterator[list[mm.ArenaReader]]:
    with (
        mm.Arena.attach(arena.name, rank=0) as zero,
        mm.Arena.attach(arena.name, rank=1) as one,
    ):
        yield [zero, one]


def granted(arena: mm.Arena) -> int:
    return arena.stats().slots_granted


def test_a_turn_of_a_conversation_copies_only_what_is_new(
    arena: mm.Arena, ranks: list[mm.ArenaReader]
) -> None:
    turns = [request_of(*(image(seed) for seed in range(count))) for count in (1, 2, 3, 4)]
    free = []
    for number, turn in enumerate(turns):
        handle = arena.put(turn, reuse="items")
        assert len(bytes(handle)) < 256
        for rank in ranks:
            assert_inputs_equal(rank.get(bytes(handle)), turn)
        stats = arena.stats()
        assert stats.hits == sum(range(number + 1))
        assert stats.misses == number + 1
        assert stats.bytes_saved >= stats.hits * NBYTES
        free.append(stats.free_nbytes)
    grown = [before - after for before, after in itertools.pairwise(free)]
    assert all(NBYTES < each < NBYTES + 3 * 4096 for each in grown)
    assert granted(arena) == 0


def test_what_a_request_says_of_an_item_is_the_requests_own(
    arena: mm.Arena, ranks: list[mm.ArenaReader]
) -> None:
    """The same image at another place, with another hash, and format: one slot, two requests."""
    first = request_of(image(1))
    item = dataclasses.replace(
        first.items[0], offsets=[(90, 105)], hash=5, pad_value=7, format="processor_output"
    )
    item.freeze()
    second = mm.MultimodalInputs(items=[item])
    handles = [arena.put(each, reuse="items") for each in (first, second)]
    assert arena.stats().hits == 1
    for handle, sent in zip(handles, (first, second), strict=True):
        out = ranks[0].get(handle)
        assert_inputs_equal(out, sent)
        assert (out.items[0].hash, out.items[0].identity) == (
            sent.items[0].hash,
            sent.items[0].identity,
        )


def test_torch_and_numpy_of_one_content_are_two_slots(
    arena: mm.Arena, ranks: list[mm.ArenaReader]
) -> None:
    for library in ("torch", "numpy"):
        sent = request_of(image(1, library=library))
        assert_inputs_equal(ranks[0].get(arena.put(sent, reuse="items")), sent)
    assert arena.stats().hits == 0


def test_one_image_twice_in_a_request_is_one_slot(
    arena: mm.Arena, ranks: list[mm.ArenaReader]
) -> None:
    sent = request_of(image(1), image(2), image(1))
    handle = arena.put(sent, reuse="items")
    assert granted(arena) == 3
    for rank in ranks:
        assert_inputs_equal(rank.get(handle), sent)
    assert granted(arena) == 0


def test_small_and_unfrozen_items_travel_beside_the_request(
    arena: mm.Arena, ranks: list[mm.ArenaReader]
) -> None:
    sent = request_of(image(1), image(2, rows=4))
    sent.items.append(image(3))
    handle = arena.put(sent, reuse="items")
    assert granted(arena) == 2
    assert_inputs_equal(ranks[0].get(handle), sent)
    ranks[1].release(handle)
    assert granted(arena) == 0


@pytest.mark.parametrize("case", ["small", "empty", "compression", "message"])
def test_what_no_item_can_be_shared_of_is_one_slot(
    arena: mm.Arena, ranks: list[mm.ArenaReader], case: str
) -> None:
    sent = {
        "small": request_of(image(1, rows=2)),
        "empty": mm.MultimodalInputs(request_data={"a": 1}),
    }.get(case, request_of(image(1)))
    what = mm.encode(sent) if case == "message" else sent
    options = {"compression": "lz4"} if case == "compression" else {}
    handle = arena.put(what, reuse="items", **options)
    assert not handle.composed
    assert granted(arena) == 1
    assert_inputs_equal(ranks[0].get(handle), sent)


def test_dictionaries_come_unexpanded_when_asked_for(
    arena: mm.Arena, ranks: list[mm.ArenaReader], photos: dict[str, Path]
) -> None:
    item = mm.MultimodalDataItem(modality="IMAGE", feature=mm.Source(photos["coffee-600x400.jpg"]))
    sent = mm.materialize(mm.MultimodalInputs(items=[item]), QwenVLImageProcessor())
    handle = arena.put(sent, reuse="items")
    out = ranks[0].get(handle, expand=False, library="torch")
    assert isinstance(out.items[0].feature, mm.DictionaryTensor)
    assert isinstance(out.items[0].feature.codes, torch.Tensor)


class TestLifetimes:
    """All the slots of a request are held together, as one slot would be."""

    def test_any_tensor_holds_every_slot(
        self, arena: mm.Arena, ranks: list[mm.ArenaReader]
    ) -> None:
        handle = arena.put(request_of(image(1), image(2), image(3)), reuse="items")
        ranks[1].release(handle)
        assert granted(arena) == 4
        view = ranks[0].get(handle).items[1].feature[3]
        gc.collect()
        assert granted(arena) == 4
        again = ranks[0].get(handle)  # as of one slot: as long as anything of it lives
        assert torch.equal(again.items[2].feature, image(3).feature)
        del again
        with pytest.raises(mm.TransportError) as caught:
            ranks[0].release(handle)
        assert caught.value.code == "views-alive"
        del caught
        assert torch.equal(view, image(2).feature[3])
        del view
        gc.collect()
        assert granted(arena) == 0
        with pytest.raises(mm.StaleHandleError):
            ranks[0].get(handle)
        ranks[0].release(handle)  # says nothing, as after a get of one slot

    def test_the_requests_own_tensors_hold_every_slot(
        self, arena: mm.Arena, ranks: list[mm.ArenaReader]
    ) -> None:
        handle = arena.put(request_of(image(1), image(2)), reuse="items")
        ranks[1].release(handle)
        mrope = ranks[0].get(handle).request_data["mrope"]
        gc.collect()
        assert granted(arena) == 3
        del mrope
        gc.collect()
        assert granted(arena) == 0

    def test_items_that_requests_share_live_as_long_as_the_last_of_them(
        self, arena: mm.Arena, ranks: list[mm.ArenaReader]
    ) -> None:
        first = arena.put(request_of(image(1), image(2)), reuse="items")
        second = arena.put(request_of(image(2), image(3)), reuse="items")
        kept = ranks[0].get(second)
        for rank in ranks:
            rank.release(first)
        ranks[1].release(second)
        fill(arena)
        assert torch.equal(kept.items[0].feature, image(2).feature)
        assert torch.equal(kept.items[1].feature, image(3).feature)

    def test_a_rank_that_dies_holds_nothing(
        self, arena: mm.Arena, ranks: list[mm.ArenaReader]
    ) -> None:
        handle = arena.put(request_of(image(1), image(2)), reuse="items")
        kept = ranks[0].get(handle)
        ranks[1].release(handle)
        assert granted(arena) == 3
        ranks[0]._transport._claims.disown()  # its lock is gone, and no word is written
        assert arena.reap() == 3
        assert granted(arena) == 0
        del kept

    def test_a_rank_that_never_looks_releases_all_by_leaving(self, arena: mm.Arena) -> None:
        handle = arena.put(request_of(image(1), image(2)), reuse="items")
        for reader in range(2):
            mm.Arena.attach(handle, rank=reader).close()
        arena.reap()
        assert granted(arena) == 0

    def test_an_image_is_given_up_by_itself(
        self, arena: mm.Arena, ranks: list[mm.ArenaReader]
    ) -> None:
        """The least recently used item goes; the others of its request stay."""
        handle = arena.put(request_of(image(1), image(2)), reuse="items")
        for rank in ranks:
            rank.release(handle)
        again = arena.put(request_of(image(1)), reuse="items")  # 1 is the more recent now
        for rank in ranks:
            rank.release(again)
        arena.stats()
        free = arena.stats().free_nbytes
        arena._transport.reserve(free + NBYTES // 2).abandon()
        before = arena.stats()
        handle = arena.put(request_of(image(1), image(2)), reuse="items")
        after = arena.stats()
        assert (after.hits - before.hits, after.misses - before.misses) == (1, 1)
        assert_inputs_equal(ranks[0].get(handle), request_of(image(1), image(2)))

    def test_no_garbage_collector_is_needed(self, arena: mm.Arena) -> None:
        gc.disable()
        try:
            with (
                mm.Arena.create(nbytes=2**21, ranks=1) as small,
                mm.Arena.attach(small.name, rank=0) as rank,
            ):
                for seed in range(12):
                    out = rank.get(small.put(request_of(image(seed), image(99)), reuse="items"))
                    assert out.items[0].offsets == [(seed, seed + 15)]
                    del out
                    assert granted(small) == 0
        finally:
            gc.enable()


def fill(arena: mm.Arena) -> None:
    """Write over everything that is free or only cached."""
    slots = []
    for nbytes in (2**20, 2**16, 4096):
        while True:
            try:
                slots.append(arena._transport.reserve(nbytes))
            except mm.ArenaFullError:
                break
            slots[-1].view[:] = b"\xa5" * nbytes
    for slot in slots:
        slot.abandon()


def test_a_request_that_does_not_fit_takes_nothing(
    arena: mm.Arena, ranks: list[mm.ArenaReader]
) -> None:
    held = arena.put(request_of(image(1)), reuse="items")
    large = request_of(*(image(seed) for seed in range(1, 20)))
    with pytest.raises(mm.ArenaFullError):
        arena.put(large, reuse="items")
    assert granted(arena) == 2
    message = arena.put(large, reuse="items", on_full="inline")
    assert isinstance(message, mm.EncodedMessage)
    assert granted(arena) == 2
    assert_inputs_equal(ranks[0].get(held), request_of(image(1)))
    ranks[1].release(held)
    arena._transport.reserve(2**23).abandon()  # all of it can be had


def test_an_item_that_cannot_travel_takes_nothing_and_is_named(arena: mm.Arena) -> None:
    sent = request_of(image(1), image(2))
    sent.items[1].model_specific_data["foo"] = object()
    with pytest.raises(mm.EncodeError, match=r"\$\.items\[1\]\.model_specific_data\['foo'\]"):
        arena.put(sent, reuse="items")
    assert granted(arena) == 0


def test_a_handle_of_items_is_one_that_others_refuse_by_version(arena: mm.Arena) -> None:
    handle = arena.put(request_of(image(1)), reuse="items")
    raw = bytes(handle)
    assert Handle.from_bytes(raw) == handle
    assert raw[4:6] == b"\x02\0"
    assert bytes(arena.put(request_of(image(1))))[4:6] == b"\x01\0"


class TestHostile:
    """An index is checked like everything else that lies in shared memory."""

    @pytest.mark.parametrize("length", [1, 11, 12, 63, 64])
    def test_cut(self, arena: mm.Arena, ranks: list[mm.ArenaReader], length: int) -> None:
        handle = arena.put(request_of(image(1)), reuse="items")
        with arena._transport.reserve(length) as slot:
            slot.view[:] = stored(arena, handle)[:length]
            broken = dataclasses.replace(slot.seal(), composed=True)
        with pytest.raises(mm.TransportError) as caught:
            ranks[0].get(broken)
        assert caught.value.code == "index"

    def test_a_plain_slot_is_no_index_and_an_index_is_no_message(
        self, arena: mm.Arena, ranks: list[mm.ArenaReader]
    ) -> None:
        plain = arena.put(request_of(image(1)))
        with pytest.raises(mm.TransportError) as caught:
            ranks[0].get(dataclasses.replace(plain, composed=True))
        assert caught.value.code == "index"
        handle = arena.put(request_of(image(1)), reuse="items")
        with pytest.raises(mm.DecodeError):
            ranks[0].get(dataclasses.replace(handle, composed=False))

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("slot", 2**31),
            ("slot", 900),
            ("generation", 77),
            ("offset", 1),
            ("offset", 2**62),
            ("nbytes", 2**62),
            ("nbytes", 1),
            ("holders", 0),
        ],
    )
    def test_an_entry_that_lies(
        self, arena: mm.Arena, ranks: list[mm.ArenaReader], field: str, value: int
    ) -> None:
        handle = arena.put(request_of(image(1), image(2)), reuse="items")
        data = stored(arena, handle)
        entries, message = unpack_index(memoryview(data), handle)
        entries[1] = entries[1]._replace(
            handle=dataclasses.replace(entries[1].handle, **{field: value})
        )
        broken = forged(arena, pack_index(entries) + bytes(message))
        del data, message
        with pytest.raises(mm.TransportError):
            ranks[0].get(broken)

    def test_entries_for_items_that_are_not_there(
        self, arena: mm.Arena, ranks: list[mm.ArenaReader]
    ) -> None:
        handle = arena.put(request_of(image(1)), reuse="items")
        data = stored(arena, handle)
        entries, message = unpack_index(memoryview(data), handle)
        with pytest.raises(mm.TransportError) as caught:
            ranks[0].get(forged(arena, pack_index([entries[0]._replace(item=4)]) + bytes(message)))
        assert caught.value.code == "index"
        twice = pack_index([entries[0], entries[0]]) + bytes(message)
        del data, message
        with pytest.raises(mm.TransportError) as caught:
            ranks[0].get(forged(arena, twice))
        assert caught.value.code == "index"

    def test_limits_are_of_the_whole_request(
        self, arena: mm.Arena, ranks: list[mm.ArenaReader]
    ) -> None:
        handle = arena.put(request_of(image(1), image(2)), reuse="items")
        with pytest.raises(mm.LimitError):
            ranks[0].get(handle, limits=mm.Limits(message_nbytes=NBYTES * 3 // 2))


def stored(arena: mm.Arena, handle: Handle) -> bytes:
    return bytes(arena._transport._mapping[handle.offset : handle.offset + handle.nbytes])


def forged(arena: mm.Arena, data: bytes) -> Handle:
    with arena._transport.reserve(len(data)) as slot:
        slot.view[:] = data
        return dataclasses.replace(slot.seal(), composed=True)


class TestInPlace:
    """Old images found, new ones processed into slots of their own."""

    def item(self, path: Path, at: int) -> mm.MultimodalDataItem:
        return mm.MultimodalDataItem(
            modality="IMAGE", feature=mm.Source(path), offsets=[(at, at + 9)]
        )

    def test_a_new_image_is_processed_where_it_will_lie(
        self, arena: mm.Arena, ranks: list[mm.ArenaReader], photos: dict[str, Path]
    ) -> None:
        processor = QwenVLImageProcessor()
        first, second = photos["coffee-600x400.jpg"], photos["hubble-1000x872.jpg"]
        handle, made = arena.materialize(
            mm.MultimodalInputs(items=[self.item(first, 3)]), processor, reuse="items"
        )
        for rank in ranks:
            assert_inputs_equal(rank.get(handle), made)
        inputs = mm.MultimodalInputs(
            items=[*made.items, self.item(second, 50)], request_data={"turn": 2}
        )
        handle, made = arena.materialize(inputs, processor, reuse="items")
        assert arena.stats().hits == 1
        base = np.frombuffer(arena._transport._mapping, np.uint8)
        codes = made.items[1].feature.codes
        assert 0 < codes.ctypes.data - base.ctypes.data < base.size
        assert_inputs_equal(made, mm.materialize(inputs, processor))
        for rank in ranks:
            assert_inputs_equal(rank.get(handle), made)
        # The ordinary way finds what was made in place.
        hits = arena.stats().hits
        arena.put(mm.materialize(inputs, processor), reuse="items")
        assert arena.stats().hits == hits + 2

    def test_a_failure_gives_everything_back(
        self, arena: mm.Arena, photos: dict[str, Path]
    ) -> None:
        whole = photos["coffee-600x400.jpg"].read_bytes()
        inputs = mm.MultimodalInputs(
            items=[
                self.item(photos["coffee-600x400.jpg"], 1),
                mm.MultimodalDataItem(modality="IMAGE", feature=mm.Source(whole[:9000])),
            ]
        )
        with pytest.raises(mm.MaterializeError) as caught:
            arena.materialize(inputs, QwenVLImageProcessor(), reuse="items")
        assert caught.value.path == "$.items[1].feature"
        del caught
        gc.collect()
        assert granted(arena) == 0
        arena._transport.reserve(2**23).abandon()  # all of it can be had


@pytest.mark.parametrize("wrong", [None, 5, [image], {}])
@pytest.mark.parametrize("reuse", ["request", "items"])
def test_what_is_no_request_is_refused(arena: mm.Arena, wrong: Any, reuse: Any) -> None:
    with pytest.raises(mm.MaterializeError):
        arena.materialize(wrong, reuse=reuse)
    with pytest.raises(mm.EncodeError):
        arena.put(wrong, reuse=reuse)


def test_the_bound_is_what_it_says() -> None:
    assert 4 * 1176 * 4 < SHARED_FROM_NBYTES < NBYTES


class TestToADevice:
    """What a rank does for a device, the CPU in the device's place; tests/gpu has the other."""

    def fetch(
        self, rank: mm.ArenaReader, handle: Handle, monkeypatch: pytest.MonkeyPatch, **options: Any
    ) -> Any:
        def decoded(message: Any, **_: Any) -> PendingInputs:
            return PendingInputs(mm.decode(message))

        def fetch(item: Handle) -> PendingInputs:
            return PendingInputs(mm.decode(rank._transport.map(item)))

        monkeypatch.setattr(share_composed, "staged", decoded)
        return share_composed.fetch_composed(
            rank._transport,
            handle,
            lane=None,  # type: ignore[arg-type]
            fetch=options.pop("fetch", fetch),
            limits=options.pop("limits", None),
            expand=True,
            out=options.pop("out", None),
        )

    def test_the_parts_come_together(
        self, arena: mm.Arena, ranks: list[mm.ArenaReader], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sent = request_of(image(1), image(2), image(1))
        handle = arena.put(sent, reuse="items")
        ranks[1].release(handle)
        pending = self.fetch(ranks[0], handle, monkeypatch)
        assert pending.done
        assert_inputs_equal(pending.result(), sent)
        del pending
        gc.collect()
        assert granted(arena) == 0

    def test_one_part_that_is_still_coming_is_not_done(self) -> None:
        class Event:
            def query(self) -> bool:
                return False

        parts = [PendingInputs(mm.MultimodalInputs()) for _ in range(2)]
        parts[1]._event = Event()  # type: ignore[assignment]
        joined = JoinedInputs(parts, lambda: mm.MultimodalInputs(request_data={"n": 1}))
        assert not joined.done
        assert joined.result().request_data == {"n": 1}

    def test_a_part_that_fails_holds_nothing(
        self, arena: mm.Arena, ranks: list[mm.ArenaReader], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        handle = arena.put(request_of(image(1), image(2)), reuse="items")
        ranks[1].release(handle)

        def fetch(item: Handle) -> PendingInputs:
            raise mm.PlacementError("expected room on the device, got none")

        with pytest.raises(mm.PlacementError):
            self.fetch(ranks[0], handle, monkeypatch, fetch=fetch)
        gc.collect()
        assert granted(arena) == 0

    def test_limits_are_of_the_whole_request(
        self, arena: mm.Arena, ranks: list[mm.ArenaReader], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        handle = arena.put(request_of(image(1), image(2)), reuse="items")
        with pytest.raises(mm.LimitError):
            self.fetch(
                ranks[0], handle, monkeypatch, limits=mm.Limits(message_nbytes=NBYTES * 3 // 2)
            )

    def test_a_destination_is_for_one_slot(
        self, arena: mm.Arena, ranks: list[mm.ArenaReader], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        handle = arena.put(request_of(image(1)), reuse="items")
        with pytest.raises(mm.PlacementError) as caught:
            self.fetch(ranks[0], handle, monkeypatch, out=torch.empty(9, dtype=torch.uint8))
        assert caught.value.code == "destination"
        assert granted(arena) == 2


def test_a_rank_that_came_back_between_two_grants_gets_an_error_and_holds_nothing(
    arena: mm.Arena, ranks: list[mm.ArenaReader], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was gone when the first item was granted, and there when the index was."""
    ranks[0].close()
    arena.reap()
    back: list[mm.ArenaReader] = []
    seal = ItemSlots.seal

    def late(self: ItemSlots, request_data: Any) -> Handle:
        back.append(mm.Arena.attach(arena.name, rank=0))
        return seal(self, request_data)

    monkeypatch.setattr(ItemSlots, "seal", late)
    handle = arena.put(request_of(image(1)), reuse="items")
    with pytest.raises(mm.StaleHandleError):
        back[0].get(handle)
    gc.collect()
    assert torch.equal(ranks[1].get(handle).items[0].feature, image(1).feature)
    gc.collect()
    assert granted(arena) == 0
    back[0].close()


@pytest.mark.parametrize("way", ["get", "release", "fetch"])
def test_a_rank_that_came_back_between_two_items_lets_go_of_the_later_ones(
    arena: mm.Arena, ranks: list[mm.ArenaReader], monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    ranks[0].close()
    arena.reap()
    back: list[mm.ArenaReader] = []
    add = ItemSlots.add

    def late(self: ItemSlots, *given: Any) -> None:
        add(self, *given)
        if not back:
            back.append(mm.Arena.attach(arena.name, rank=0))

    monkeypatch.setattr(ItemSlots, "add", late)
    handle = arena.put(request_of(image(1), image(2), image(3)), reuse="items")
    ranks[1].release(handle)
    gc.disable()  # nor are they held until the collector comes
    try:
        with pytest.raises(mm.StaleHandleError):
            if way == "fetch":
                TestToADevice().fetch(back[0], handle, monkeypatch)
            else:
                getattr(back[0], way)(handle)
        assert granted(arena) == 0
    finally:
        gc.enable()
    back[0].close()
