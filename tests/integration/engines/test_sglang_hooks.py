"""A handle through SGLang's real send, broadcast and receive functions, on real processes."""

from __future__ import annotations

import logging
import pickle
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

import mmformat as mm
from benchmarks.engines import tp_ranks
from mmformat.adapters.sglang import install
from mmformat.shm import Handle
from tests.integration.engines.real import module, needs

needs("sglang")

NEWER = hasattr(module("sglang.srt.managers.schedule_batch"), "MultimodalProcessorOutput")
SIDE = "sglang_0_5_23" if NEWER else "sglang_0_5_5"
TP = 4

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def ranks() -> Iterator[tp_ranks.Ranks]:
    with tp_ranks.running(SIDE, tp_size=TP) as running:
        yield running


@pytest.fixture
def arena(ranks: tp_ranks.Ranks) -> Iterator[mm.Arena]:
    with mm.Arena.create(nbytes=2**26, ranks=TP) as made:
        with install(ranks.manager, arena=made):
            ranks.control(f"install {made.name}")
            yield made
            ranks.control("remove")
        assert made.wait_released(timeout_s=5.0)


def image(ranks: tp_ranks.Ranks, seed: int = 0, **options: Any) -> Any:
    feature = torch.randn(500, 1176, generator=torch.Generator().manual_seed(seed))
    grid = torch.tensor([[1, 20, 25]])
    return ranks.side.item("IMAGE", feature, image_grid_thw=grid, **options)


class Recorder:
    """Stand where the manager's socket stands, and keep what it is given."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.decode: Any = None

    def send(self, data: Any, *_args: Any, **_options: Any) -> None:
        self.sent.append(bytes(data))
        self.decode = module("sglang.srt.managers.io_struct").msgpack_decode

    def send_pyobj(self, value: Any, *_args: Any, **_options: Any) -> None:
        self.sent.append(pickle.dumps(value))
        self.decode = pickle.loads


@contextmanager
def recording(ranks: tp_ranks.Ranks) -> Iterator[Recorder]:
    """Keep what the manager sends from the ranks; in 0.5.5 the adapter stands before the socket."""
    owner, name = (
        (ranks.manager, "send_to_scheduler")
        if NEWER
        else (ranks.manager.send_to_scheduler, "_socket")
    )
    socket, recorder = getattr(owner, name), Recorder()
    setattr(owner, name, recorder)
    try:
        yield recorder
    finally:
        setattr(owner, name, socket)


def on_the_way(ranks: tp_ranks.Ranks, request: Any) -> tuple[bytes, Any]:
    """Return what the manager's socket is given for a request, and what rank 0 makes of it."""
    with recording(ranks) as recorder:
        ranks.side.send(ranks.manager, request)
    return recorder.sent[0], recorder.decode(recorder.sent[0])


def handle_in(received: Any) -> bytes:
    media = received.mm_inputs
    place = media.mm_items[0].model_specific_data if NEWER else media
    return place["mmformat.handle"]


def test_every_rank_has_the_tensors_and_one_hash(ranks: tp_ranks.Ranks, arena: mm.Arena) -> None:
    item = image(ranks)
    expected = tp_ranks.digest_of([item])
    _, answers = ranks.ask("one", [item], im_token_id=7)
    assert [answer["digest"] for answer in answers] == [expected] * TP
    assert {answer["class"] for answer in answers} == {"MultimodalInputs"}
    assert all(answer["request"]["im_token_id"] == 7 for answer in answers)
    assert len({(answer["hashes"][0], answer["pads"][0]) for answer in answers}) == 1
    assert arena.stats().misses == 1


def test_the_hash_that_an_item_has_is_kept(ranks: tp_ranks.Ranks, arena: mm.Arena) -> None:
    item = image(ranks, hash_known=True)
    expected = (item.hash, (item.pad_value, getattr(item, "pad_values", None)))
    _, answers = ranks.ask("known", [item])
    assert {(a["hashes"][0], a["pads"][0]) for a in answers} == {expected}


def test_off_the_ranks_get_what_they_got_before(ranks: tp_ranks.Ranks) -> None:
    """After an install and a remove, the engine's own transport and hash are back."""
    expected = image(ranks, 3, hash_known=True)
    _, before = ranks.ask("before", [image(ranks, 3)])
    with mm.Arena.create(nbytes=2**24, ranks=TP) as made:
        with install(ranks.manager, arena=made):
            ranks.control(f"install {made.name}")
            ranks.control("remove")
        _, after = ranks.ask("after", [image(ranks, 3)])
        assert made.stats().misses == 0
    for one, other in zip(before, after, strict=True):
        assert one["digest"] == other["digest"] == tp_ranks.digest_of([expected])
        assert one["hashes"] == other["hashes"] == [expected.hash]
        assert one["pads"] == other["pads"]


def test_a_handle_of_under_256_bytes_crosses(ranks: tp_ranks.Ranks, arena: mm.Arena) -> None:
    request = ranks.side.request("small", [image(ranks, 4), image(ranks, 5)])
    sent, received = on_the_way(ranks, request)
    handle = handle_in(received)
    assert len(handle) < 256
    assert Handle.from_bytes(handle).name == arena.name
    without = ranks.side.request("small", [image(ranks, 4)])
    without.mm_inputs = None
    plain, _ = on_the_way(ranks, without)
    assert len(sent) - len(plain) < 1024  # the handle, and the engine's own classes around it
    # Nobody was sent this handle: give it to the ranks now, so that its slot is released.
    again = ranks.side.request("small-again", [])
    again.mm_inputs = received.mm_inputs
    ranks.side.send(ranks.manager, again)
    assert len(ranks.collect("small-again")) == TP


def test_content_that_is_there_is_not_copied_again(ranks: tp_ranks.Ranks, arena: mm.Arena) -> None:
    for name in ("first", "second"):
        _, answers = ranks.ask(name, [image(ranks, 6)])
        assert {answer["digest"] for answer in answers} == {tp_ranks.digest_of([image(ranks, 6)])}
    stats = arena.stats()
    assert (stats.hits, stats.misses) == (1, 1)
    if NEWER:
        assert all(answer["identities"] == [None] for answer in answers)


def test_a_batch_crosses_as_handles(ranks: tp_ranks.Ranks, arena: mm.Arena) -> None:
    requests = [ranks.side.request(f"batch-{i}", [image(ranks, 10 + i)]) for i in range(2)]
    with recording(ranks) as recorder:
        ranks.side.send_batch(ranks.manager, requests)
    assert len(recorder.sent[0]) < 4096
    # Nobody was sent these handles: send them one by one, so that the ranks open them.
    for number, request in enumerate(requests):
        forwarded = ranks.side.request(f"batch-{number}", [])
        forwarded.mm_inputs = request.mm_inputs
        ranks.side.send(ranks.manager, forwarded)
        answers = ranks.collect(f"batch-{number}")
        expected = tp_ranks.digest_of([image(ranks, 10 + number)])
        assert {answer["digest"] for answer in answers} == {expected}


def test_what_does_not_fit_goes_the_engines_own_way(
    ranks: tp_ranks.Ranks, caplog: pytest.LogCaptureFixture
) -> None:
    with mm.Arena.create(nbytes=2**16, ranks=TP) as small, install(ranks.manager, arena=small):
        ranks.control(f"install {small.name}")
        with caplog.at_level(logging.WARNING, logger="mmformat.sglang"):
            _, answers = ranks.ask("large", [image(ranks, 20)])
        ranks.control("remove")
        expected = tp_ranks.digest_of([image(ranks, 20)])
        assert {answer["digest"] for answer in answers} == {expected}
        # Hashed once by the sender on this way too.
        assert len({answer["hashes"][0] for answer in answers}) == 1
    assert "media go without the arena" in caplog.text


def test_a_request_without_media_is_left_alone(ranks: tp_ranks.Ranks, arena: mm.Arena) -> None:
    request = ranks.side.request("text", [])
    request.mm_inputs = None
    _, received = on_the_way(ranks, request)
    assert received.mm_inputs is None
    assert arena.stats().misses == 0


def test_several_data_parallel_groups_are_refused(ranks: tp_ranks.Ranks) -> None:
    manager = types.SimpleNamespace(
        send_to_scheduler=None, server_args=types.SimpleNamespace(dp_size=2)
    )
    with (
        mm.Arena.create(nbytes=2**16, ranks=1) as small,
        pytest.raises(mm.ModelError, match="expected dp_size of 1, got 2"),
    ):
        install(manager, arena=small)
    with pytest.raises(mm.ModelError, match="expected an arena"):
        install(ranks.manager)
    with pytest.raises(mm.ModelError, match="expected a TokenizerManager or a Scheduler"):
        install(object())
