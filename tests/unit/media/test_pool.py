"""A pool keeps order, bounds what waits, and confines each failure to its own request."""

from __future__ import annotations

import asyncio
import gc
import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future, wait
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image

import mmformat as mm
from mmformat.media import materialize, register_lazy
from mmformat.media.pool import MaterializePool
from mmformat.media.processors import processor_from_config
from tests.support.requests import request_of
from tests.unit.media import pool_processors as processors

DATA = Path(__file__).parents[2] / "data"
KINDS = ["thread", "process"]

pytestmark = pytest.mark.timeout(120)


def said(what: int) -> mm.MultimodalInputs:
    """Return a request that tells the scripted processor what to do."""
    return request_of(mm.Source(np.full((2, 2), what, np.uint8)))


def until(condition: Callable[[], object]) -> None:
    end_s = time.monotonic() + 30
    while not condition():
        if time.monotonic() > end_s:
            pytest.fail("waited 30 s in vain")
        time.sleep(0.005)


def value_of(inputs: mm.MultimodalInputs) -> int:
    return int(np.asarray(inputs.items[0].feature).flat[0])


def children() -> set[int]:
    return {child.pid for child in psutil.Process().children(recursive=True)}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Gate:
    """Hold requests that say 3 until it is opened."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def wait_for_one(self) -> None:
        until((self.folder / "waiting").exists)

    def open(self) -> None:
        (self.folder / "gate").touch()

    def calls(self, what: int) -> int:
        path = self.folder / f"calls-{what}"
        return path.stat().st_size if path.exists() else 0


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    gate = Gate(tmp_path)
    yield gate
    gate.open()  # or a failing test would hang in close()


def scripted(gate: Gate, **fields: Any) -> processors.Scripted:
    return processors.Scripted(str(gate.folder), **fields)


# ------------------------------------------------------------------------------------ the results


def test_results_are_those_of_materialize_in_order(kind: Any, photos: dict[str, Path]) -> None:
    processor = processor_from_config({"image_processor_type": "Qwen2VLImageProcessor"})
    requests = [request_of(mm.Source(path)) for path in list(photos.values())[:8]]
    with MaterializePool(2, kind, processor=processor) as pool:
        results = list(pool.map(requests))
    for given, result in zip(requests, results, strict=True):
        (expected,) = materialize(given, processor).items
        (item,) = result.items
        assert item.frozen
        assert (item.identity, item.hash) == (expected.identity, expected.hash)
        assert item.pad_value == expected.pad_value
        assert isinstance(item.feature, mm.DictionaryTensor)
        np.testing.assert_array_equal(item.feature.codes, expected.feature.codes)
        np.testing.assert_array_equal(item.feature.table, expected.feature.table)
        assert item.feature.shape == expected.feature.shape


def _sources(photo: Path) -> list[mm.Source]:
    import base64

    data = photo.read_bytes()
    text = base64.b64encode(data).decode()
    return [
        mm.Source(data),
        mm.Source(photo),
        mm.Source(os.path.relpath(photo), kind="path"),
        mm.Source(text),
        mm.Source(f"data:image/png;base64,{text}"),
        mm.Source("https://example.org/a.png"),
        mm.Source(io.BytesIO(data)),
        mm.Source(np.asarray(Image.open(photo))),
        mm.Source(Image.open(photo)),
    ]


def test_every_kind_of_source_reaches_a_process(photos: dict[str, Path]) -> None:
    photo = photos["astronaut-face-224.png"]
    with MaterializePool(
        1, "process", processor=processors.pixels, fetcher=lambda url: photo.read_bytes()
    ) as pool:
        for source in _sources(photo):
            (item,) = pool.submit(request_of(source)).result().items
            np.testing.assert_array_equal(item.feature, np.asarray(Image.open(photo)))
            assert item.model_specific_data["pid"] != os.getpid()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F"])
def test_an_image_of_each_mode_reaches_a_process(mode: str, photos: dict[str, Path]) -> None:
    with Image.open(photos["flower-rgba.png"]) as opened:
        image = opened.convert("L" if mode == "I;16" else mode)
        if mode == "I;16":
            image = Image.fromarray(np.asarray(image, np.uint16) * 257)
        if mode == "P":
            image.info["transparency"] = 3
    (item,) = _through_process(request_of(mm.Source(image))).items
    assert item.model_specific_data["mode"] == mode
    np.testing.assert_array_equal(item.feature, np.asarray(image))


def _through_process(inputs: mm.MultimodalInputs) -> mm.MultimodalInputs:
    with MaterializePool(1, "process", processor=processors.pixels) as pool:
        return pool.submit(inputs).result()


def test_video_and_audio_reach_a_process() -> None:
    video = mm.Source(DATA / "video" / "chelsea-176x144.avi")
    audio = mm.Source((DATA / "audio" / "complete-stereo.ogg").read_bytes())
    given = mm.MultimodalInputs(
        items=[
            mm.MultimodalDataItem(modality=mm.Modality.VIDEO, feature=video),
            mm.MultimodalDataItem(modality=mm.Modality.AUDIO, feature=audio),
        ]
    )
    processor = {mm.Modality.VIDEO: processors.frames, mm.Modality.AUDIO: processors.samples}
    with MaterializePool(1, "process", processor=processor) as pool:
        result = pool.submit(given).result()
    for item, expected in zip(result.items, materialize(given, processor).items, strict=True):
        np.testing.assert_array_equal(item.feature, expected.feature)
        assert item.hash == expected.hash


def test_what_needs_no_worker_stays_as_it_is(kind: Any) -> None:
    tensor = np.arange(4.0)
    done = materialize(request_of(tensor)).items[0]
    given = mm.MultimodalInputs(
        items=[
            done,
            mm.MultimodalDataItem(
                modality=mm.Modality.IMAGE, feature=[tensor, [mm.Source(np.ones((2, 2), np.uint8))]]
            ),
            mm.MultimodalDataItem(modality=mm.Modality.IMAGE, feature=tensor),
        ],
        request_data={"a": (1, tensor)},
    )
    with MaterializePool(1, kind, processor=processors.pixels) as pool:
        result = pool.submit(given).result()
    assert result.items[0] is done
    np.testing.assert_array_equal(result.items[1].feature[0], tensor)
    np.testing.assert_array_equal(result.items[1].feature[1][0], np.ones((2, 2)))
    assert result.items[2].feature is tensor
    assert result.request_data["a"][1] is tensor
    assert all(item.frozen and item.hash is not None for item in result.items)


def test_lazy_objects_are_loaded_on_this_side(kind: Any) -> None:
    class Later:
        def __init__(self) -> None:
            self.lock = threading.Lock()  # cannot be sent anywhere

    register_lazy(Later, lambda value: [mm.Source(np.ones((2, 2), np.uint8)), np.zeros(1)])
    with MaterializePool(1, kind, processor=processors.pixels) as pool:
        (item,) = pool.submit(request_of(Later())).result().items
    assert [each.shape for each in item.feature] == [(2, 2), (1,)]


# ------------------------------------------------------------------------------------ what fails


def test_one_bad_medium_fails_its_own_request_alone(kind: Any, gate: Gate) -> None:
    bad = mm.Source(DATA / "bad" / "truncated.jpg")
    good = mm.Source(np.full((2, 2), 9, np.uint8))
    requests = [said(5), request_of(good, [good, bad]), said(4), said(6)]
    with MaterializePool(2, kind, processor=scripted(gate)) as pool:
        first, second, third, fourth = pool.map(requests, errors="return")
    assert (value_of(first), value_of(fourth)) == (5, 6)
    assert isinstance(second, mm.MaterializeError)
    assert second.path == "$.items[1].feature[1]"
    assert isinstance(third, mm.MaterializeError)
    assert "KeyError" in str(third)
    assert third.path == "$.items[0].feature"


def test_map_raises_in_place_and_takes_no_more(kind: Any, gate: Gate) -> None:
    asked: list[int] = []

    def requests() -> Iterator[mm.MultimodalInputs]:
        for what in (5, 4, *[6] * 50):
            asked.append(what)
            yield said(what)

    with MaterializePool(1, kind, processor=scripted(gate), queue_size=2) as pool:
        results = pool.map(requests())
        assert value_of(next(results)) == 5
        with pytest.raises(mm.MaterializeError, match="KeyError"):
            next(results)
    assert len(asked) <= 5


def test_the_classes_of_errors_survive_the_way(kind: Any) -> None:
    small = mm.Source(np.zeros((2, 2), np.uint8), max_pixels=3)
    with MaterializePool(1, kind, processor=processors.pixels) as pool:
        with pytest.raises(mm.LimitError, match="2 x 2") as caught:
            pool.submit(request_of(small)).result()
        assert "max_pixels" in str(caught.value.hint)
        with pytest.raises(mm.MaterializeError) as without:
            pool.submit(request_of(mm.Source("https://example.org/a"))).result()
        assert without.value.code == "no-fetcher"


def test_a_result_that_cannot_travel_names_its_item() -> None:
    given = request_of(np.zeros(1), mm.Source(np.zeros((2, 2), np.uint8)))
    with (
        MaterializePool(1, "process", processor=processors.give_a_set) as pool,
        pytest.raises(mm.MMFormatError, match=r"\$\.items\[1\]"),
    ):
        pool.submit(given).result()


def test_a_full_queue_pushes_back(kind: Any, gate: Gate) -> None:
    with MaterializePool(1, kind, processor=scripted(gate), queue_size=2) as pool:
        running = pool.submit(said(3))
        gate.wait_for_one()
        waiting = [pool.submit(said(5)), pool.submit(said(6))]
        with pytest.raises(mm.MaterializeError) as caught:
            pool.submit(said(7), queue_timeout_s=0.01)
        assert caught.value.code == "pool-full"
        blocked = threading.Thread(target=lambda: waiting.append(pool.submit(said(8))))
        blocked.start()
        assert len(waiting) == 2
        gate.open()
        blocked.join()
        assert [value_of(each.result()) for each in [running, *waiting]] == [3, 5, 6, 8]
    assert gate.calls(7) == 0


def test_cancelling_what_waits_drops_it_and_makes_room(kind: Any, gate: Gate) -> None:
    with MaterializePool(1, kind, processor=scripted(gate), queue_size=1) as pool:
        running = pool.submit(said(3))
        gate.wait_for_one()
        waiting = pool.submit(said(5))
        assert waiting.cancel()
        assert wait([waiting], timeout=30).done
        later = pool.submit(said(6), queue_timeout_s=30)
        gate.open()
        assert (value_of(running.result()), value_of(later.result())) == (3, 6)
    assert gate.calls(5) == 0
    assert waiting.cancelled()


def test_cancelling_what_runs_discards_the_result(kind: Any, gate: Gate) -> None:
    with MaterializePool(1, kind, processor=scripted(gate)) as pool:
        running = pool.submit(said(3))
        gate.wait_for_one()
        assert running.cancel()
        gate.open()
        assert value_of(pool.submit(said(5)).result()) == 5
    with pytest.raises(CancelledError):
        running.result()


def test_a_deadline_passes_while_running(kind: Any, gate: Gate) -> None:
    with MaterializePool(1, kind, processor=scripted(gate)) as pool:
        pool.submit(said(5)).result()  # the worker is up
        running = pool.submit(said(3), timeout_s=3.0)
        gate.wait_for_one()
        with pytest.raises(mm.MaterializeError, match=r"within 3\.0 s") as caught:
            running.result()
        assert caught.value.code == "deadline"
        if kind == "process":  # nobody opens the gate: the worker was killed and replaced
            assert value_of(pool.submit(said(6)).result()) == 6
            assert pool.restarts == 1
            assert gate.calls(3) == 1
        gate.open()
        assert value_of(pool.submit(said(7)).result()) == 7


def test_a_deadline_passes_while_waiting(kind: Any, gate: Gate) -> None:
    with MaterializePool(1, kind, processor=scripted(gate), queue_size=1) as pool:
        running = pool.submit(said(3))
        gate.wait_for_one()
        waiting = pool.submit(said(5), timeout_s=0.05)
        with pytest.raises(mm.MaterializeError, match="within"):
            waiting.result()
        pool.submit(said(6), queue_timeout_s=30)  # there is room again
        gate.open()
        assert value_of(running.result()) == 3
    assert gate.calls(5) == 0


def test_a_deadline_that_is_kept_changes_nothing(kind: Any) -> None:
    with MaterializePool(1, kind, processor=processors.pixels) as pool:
        futures = [pool.submit(said(5), timeout_s=60 + number) for number in range(3)]
        assert [value_of(each.result()) for each in futures] == [5, 5, 5]


def test_a_closed_pool_takes_nothing(kind: Any) -> None:
    pool = MaterializePool(1, kind, processor=processors.pixels)
    kept = pool.submit(said(5))
    pool.close()
    pool.close()
    assert value_of(kept.result()) == 5
    with pytest.raises(mm.MaterializeError) as caught:
        pool.submit(said(5))
    assert caught.value.code == "pool-closed"


def test_an_error_in_the_with_block_cancels_what_waits(kind: Any, gate: Gate) -> None:
    futures: list[Future[mm.MultimodalInputs]] = []
    with (
        pytest.raises(RuntimeError, match="out"),
        MaterializePool(1, kind, processor=scripted(gate)) as pool,
    ):
        futures = [pool.submit(said(3)), pool.submit(said(5))]
        gate.wait_for_one()
        threading.Timer(0.05, gate.open).start()
        raise RuntimeError("out")
    assert value_of(futures[0].result()) == 3
    assert futures[1].cancelled()


def test_what_ends_a_thread_does_not_end_the_pool() -> None:
    def leave(image: Any) -> Any:
        raise SystemExit(3)

    with MaterializePool(1, processor=leave) as pool:
        for _ in range(2):
            with pytest.raises(mm.MaterializeError, match="SystemExit"):
                pool.submit(said(5)).result()


# ------------------------------------------------------------------------------------- processes


@pytest.mark.parametrize("crash", ["KILL", "SEGV"])
def test_a_worker_that_dies_is_replaced_and_its_request_retried(gate: Gate, crash: str) -> None:
    with MaterializePool(1, "process", processor=scripted(gate, crash=crash)) as pool:
        assert value_of(pool.submit(said(2)).result()) == 2
        assert (pool.restarts, gate.calls(2)) == (1, 2)


def test_a_request_that_kills_twice_fails_and_the_pool_goes_on(gate: Gate) -> None:
    with MaterializePool(2, "process", processor=scripted(gate)) as pool:
        fatal, good = pool.submit(said(1)), pool.submit(said(5))
        with pytest.raises(mm.MaterializeError, match="SIGKILL") as caught:
            fatal.result()
        assert (caught.value.code, caught.value.path) == ("worker-died", "$.items[0]")
        assert gate.calls(1) == 2
        assert value_of(good.result()) == 5
        assert value_of(pool.submit(said(6)).result()) == 6


def test_a_worker_killed_while_idle_is_replaced(gate: Gate) -> None:
    before = children()
    with MaterializePool(1, "process", processor=scripted(gate)) as pool:
        pool.submit(said(5)).result()
        (pid,) = children() - before
        os.kill(pid, signal.SIGKILL)
        assert value_of(pool.submit(said(6)).result()) == 6
        assert pool.restarts == 1


def test_workers_end_with_the_pool(gate: Gate) -> None:
    before = children()
    with MaterializePool(2, "process", processor=scripted(gate)) as pool:
        pool.submit(said(5)).result()
        until(lambda: len(children() - before) == 2)
    assert children() == before


def test_workers_end_with_a_pool_that_is_forgotten(gate: Gate) -> None:
    before = children()
    pool = MaterializePool(1, "process", processor=scripted(gate))
    pool.submit(said(5)).result()
    assert children() != before
    del pool
    gc.collect()
    until(lambda: children() == before)


def test_workers_end_when_their_parent_is_killed() -> None:
    program = (
        "import numpy as np, sys, psutil, mmformat as mm\n"
        "from mmformat.media.pool import MaterializePool\n"
        "pool = MaterializePool(1, 'process', processor='numpy:asarray')\n"
        "item = mm.MultimodalDataItem(modality='IMAGE', feature=mm.Source(np.ones((2, 2), 'u1')))\n"
        "pool.submit(mm.MultimodalInputs(items=[item])).result()\n"
        "print(*[child.pid for child in psutil.Process().children()], flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.kill()
    until(lambda: not psutil.pid_exists(pid) or _is_zombie(pid))


def _is_zombie(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_what_a_processor_prints_is_no_output_of_ours(capfd: pytest.CaptureFixture[str]) -> None:
    with MaterializePool(1, "process", processor=processors.chatty) as pool:
        pool.submit(said(5)).result()
    captured = capfd.readouterr()
    assert captured.out == ""
    assert "processor speaking" in captured.err


def test_a_processor_that_cannot_be_made_there_fails_each_request() -> None:
    with MaterializePool(1, "process", processor=processors.OnlyHere(os.getpid())) as pool:
        for _ in range(2):
            with pytest.raises(mm.MaterializeError, match="RuntimeError: not here"):
                pool.submit(said(5)).result()


@pytest.mark.parametrize(
    "processor", [lambda image: image, threading.Lock(), "numpy:no_such", "no_such_module:x", "x"]
)
def test_a_processor_that_cannot_be_imported_is_refused_at_once(processor: Any) -> None:
    with pytest.raises(mm.ModelError):
        MaterializePool(1, "process", processor=processor)


def test_a_medium_of_the_callers_own_cannot_be_sent() -> None:
    with (
        MaterializePool(1, "process", processor=processors.pixels) as pool,
        pytest.raises(mm.MaterializeError, match="another process") as caught,
    ):
        pool.submit(request_of(mm.Source(object(), kind="medium"))).result()
    assert "thread" in str(caught.value.hint)


@pytest.mark.parametrize(
    "arguments",
    [{"workers": 0}, {"workers": 1, "queue_size": 0}, {"workers": 1, "kind": "fiber"}],
)
def test_bad_settings_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(mm.ModelError):
        MaterializePool(**arguments)


# ----------------------------------------------------------------------------------------- async


@pytest.mark.asyncio
async def test_many_are_awaited_with_a_short_queue(kind: Any) -> None:
    with MaterializePool(2, kind, processor=processors.pixels, queue_size=1) as pool:
        results = await asyncio.gather(*(pool.materialize_async(said(10 + n)) for n in range(12)))
    assert [value_of(each) for each in results] == list(range(10, 22))


@pytest.mark.asyncio
async def test_waiting_for_room_takes_no_thread_and_does_not_block_the_loop(gate: Gate) -> None:
    threads_before = threading.active_count()
    with MaterializePool(1, "thread", processor=scripted(gate), queue_size=1) as pool:
        running = asyncio.ensure_future(pool.materialize_async(said(3)))
        await asyncio.to_thread(gate.wait_for_one)
        waiting = [asyncio.ensure_future(pool.materialize_async(said(10 + n))) for n in range(40)]
        await asyncio.sleep(0.05)
        assert threading.active_count() <= threads_before + 2  # the worker, and one of to_thread
        assert await asyncio.wait_for(asyncio.to_thread(lambda: 7), timeout=5) == 7
        gate.open()
        assert value_of(await running) == 3
        results = await asyncio.gather(*waiting)
    assert [value_of(each) for each in results] == list(range(10, 50))


@pytest.mark.asyncio
async def test_closing_the_pool_wakes_those_that_wait_for_room(gate: Gate) -> None:
    pool = MaterializePool(1, "thread", processor=scripted(gate), queue_size=1)
    running = asyncio.ensure_future(pool.materialize_async(said(3)))
    await asyncio.to_thread(gate.wait_for_one)
    queued = asyncio.ensure_future(pool.materialize_async(said(5)))
    blocked = asyncio.ensure_future(pool.materialize_async(said(6)))
    await asyncio.sleep(0.05)
    closing = asyncio.ensure_future(asyncio.to_thread(pool.close, cancel=True))
    with pytest.raises(mm.MaterializeError) as caught:
        await asyncio.wait_for(blocked, timeout=30)
    assert caught.value.code == "pool-closed"
    gate.open()
    assert value_of(await running) == 3
    with pytest.raises(asyncio.CancelledError):
        await queued
    await closing


@pytest.mark.asyncio
async def test_cancelling_an_await_cancels_its_request(kind: Any, gate: Gate) -> None:
    with MaterializePool(1, kind, processor=scripted(gate), queue_size=1) as pool:
        running = asyncio.ensure_future(pool.materialize_async(said(3)))
        await asyncio.to_thread(gate.wait_for_one)
        waiting = asyncio.ensure_future(pool.materialize_async(said(5)))
        while "1 of 1" not in repr(pool):
            await asyncio.sleep(0.005)
        blocked = asyncio.ensure_future(pool.materialize_async(said(6)))
        await asyncio.sleep(0.05)
        for task in (waiting, blocked):
            task.cancel()
        done, _ = await asyncio.wait([waiting, blocked], timeout=30)
        assert len(done) == 2
        gate.open()
        assert value_of(await running) == 3
        assert value_of(await pool.materialize_async(said(7))) == 7
    assert (gate.calls(5), gate.calls(6)) == (0, 0)


@pytest.mark.asyncio
async def test_an_awaited_request_has_a_deadline(kind: Any, gate: Gate) -> None:
    with MaterializePool(1, kind, processor=scripted(gate)) as pool:
        with pytest.raises(mm.MaterializeError, match="within"):
            await pool.materialize_async(said(3), timeout_s=0.3)
        gate.open()
