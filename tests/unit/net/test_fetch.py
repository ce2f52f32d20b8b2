"""Publisher and mirror in one process: what crosses, how often, and who holds what afterwards."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import mmformat as mm
from mmformat.errors import (
    ArenaFullError,
    DecodeError,
    IntegrityError,
    LimitError,
    StaleHandleError,
    TransportError,
    TransportTimeoutError,
)
from mmformat.net import Mirror, MirrorClient, Publisher, RemoteHandle, wire
from mmformat.net.local import MirrorServer
from mmformat.net.remote_handle import CHUNK_NBYTES
from tests.support.requests import random_request

MIB = 2**20


def inputs(nbytes: int = 5 * MIB + 123, seed: int = 0) -> mm.MultimodalInputs:
    return random_request(nbytes, seed)


@pytest.fixture
def here() -> Iterator[mm.Arena]:
    with mm.Arena.create(nbytes=256 * MIB, ranks=1) as arena:
        yield arena


@pytest.fixture
def there() -> Iterator[mm.Arena]:
    with mm.Arena.create(nbytes=256 * MIB, ranks=4) as arena:
        yield arena


@pytest.fixture
def publisher(here: mm.Arena) -> Iterator[Publisher]:
    with Publisher(here) as made:
        yield made


@pytest.fixture
def mirror(there: mm.Arena) -> Iterator[Mirror]:
    with Mirror(there) as made:
        yield made


def values_of(handle: Any, ranks: range = range(4)) -> list[Any]:
    found = []
    for rank in ranks:
        with mm.Arena.attach(handle, rank=rank) as reader:
            found.append(np.array(reader.get(handle, library="numpy").items[0].feature))
    return found


def test_four_ranks_read_what_crossed_once(publisher: Publisher, mirror: Mirror) -> None:
    sent = inputs()
    handle = mirror.fetch(publisher.publish(sent))
    for value in values_of(handle):
        assert np.array_equal(value, sent.items[0].feature)
    assert publisher.stats().sent_nbytes == handle.nbytes
    assert mirror.stats().fetched == 1


@pytest.mark.parametrize("nbytes", [1, CHUNK_NBYTES - 4096, CHUNK_NBYTES, 70 * MIB])
@pytest.mark.parametrize("streams", [1, 3])
def test_sizes_around_a_chunk_and_several_streams(
    publisher: Publisher, there: mm.Arena, nbytes: int, streams: int
) -> None:
    sent = inputs(nbytes)
    with Mirror(there, streams=streams) as mirror:
        handle = mirror.fetch(publisher.publish(sent))
    assert np.array_equal(values_of(handle, range(1))[0], sent.items[0].feature)


def test_the_publisher_gives_grpc_the_slots_own_pages(here: mm.Arena) -> None:
    slot = here.transport.reserve(3 * CHUNK_NBYTES)
    slot.view[:] = bytes(3 * CHUNK_NBYTES)
    handle = slot.seal()
    lent = here.transport.lend(handle)
    before = pa.total_allocated_bytes()
    batch = wire.batch_of(lent.view[CHUNK_NBYTES : 2 * CHUNK_NBYTES])
    address = batch.column(0).buffers()[2].address
    assert address == lent.view.ctypes.data + CHUNK_NBYTES
    assert pa.total_allocated_bytes() - before < 4096


def test_a_message_larger_than_the_memory_that_arrow_takes(
    publisher: Publisher, mirror: Mirror
) -> None:
    """Of 128 MiB, a few chunks are in Arrow's memory at once, on both sides together."""
    remote = publisher.publish(inputs(128 * MIB))
    most, base = 0, pa.total_allocated_bytes()

    def look(*_: int) -> None:
        nonlocal most
        most = max(most, pa.total_allocated_bytes() - base)

    mirror.fetch(remote, progress=look)
    assert 0 < most < 12 * CHUNK_NBYTES


def test_a_slot_is_free_after_the_acknowledgement_and_not_before(
    here: mm.Arena, publisher: Publisher, mirror: Mirror
) -> None:
    free = here.stats().free_nbytes
    remote = publisher.publish(inputs())
    assert here.stats().slots_granted == 0  # no local rank is waited for
    assert here.stats().free_nbytes < free
    mirror.fetch(remote)
    assert mirror.flush() and publisher.wait_acknowledged(timeout_s=5)
    deadline = time.monotonic() + 5
    while here.stats().free_nbytes < free and time.monotonic() < deadline:
        time.sleep(0.01)
    assert here.stats().free_nbytes == free


def test_local_ranks_read_the_announced_slot_too(
    here: mm.Arena, publisher: Publisher, mirror: Mirror
) -> None:
    sent = inputs()
    handle = here.put(sent)
    remote = publisher.announce(handle)
    assert np.array_equal(values_of(handle, range(1))[0], sent.items[0].feature)
    assert np.array_equal(values_of(mirror.fetch(remote))[3], sent.items[0].feature)


def test_content_that_is_there_does_not_cross_again(publisher: Publisher, mirror: Mirror) -> None:
    first, second = publisher.publish(inputs()), publisher.publish(inputs())
    assert first.digest == second.digest and first.key != second.key
    one, two = mirror.fetch(first), mirror.fetch(second)
    assert one != two and one.offset == two.offset
    assert publisher.stats().sent_nbytes == one.nbytes
    assert mirror.flush() and publisher.wait_acknowledged(timeout_s=5)


def test_requests_at_once_are_one_transfer(publisher: Publisher, mirror: Mirror) -> None:
    remote = publisher.publish(inputs(40 * MIB), hosts=1)
    with ThreadPoolExecutor(8) as pool:
        handles = list(pool.map(lambda _: mirror.fetch(remote), range(8)))
    assert publisher.stats().sent_nbytes == handles[0].nbytes
    assert len({(h.slot, h.generation) for h in handles}) == 8  # a grant for each
    assert len({h.offset for h in handles}) == 1


def test_each_rank_that_asks_is_told_of_one_grant(
    publisher: Publisher, mirror: Mirror, there: mm.Arena
) -> None:
    remote = publisher.publish(inputs(), hosts=9)
    first = [mirror.fetch(remote, rank=rank) for rank in range(4)]
    assert len(set(first)) == 1
    again = [mirror.fetch(remote, rank=rank) for rank in (2, 2, 0)]
    assert again[0] == again[2] != again[1]
    assert there.stats().slots_granted == 3


def test_a_rank_that_never_asks_holds_nothing_for_ever(
    publisher: Publisher, there: mm.Arena
) -> None:
    with Mirror(there, round_s=0.05) as mirror:
        handle = mirror.fetch(publisher.publish(inputs()), rank=1)
        values_of(handle, range(1, 2))
        there.reap()
        assert there.stats().slots_granted == 1
        time.sleep(0.06)
        assert mirror.expire() == 1
        there.reap()
        assert there.stats().slots_granted == 0


def test_fetch_async_leaves_the_loop_alone_and_a_burst_waits(
    publisher: Publisher, there: mm.Arena
) -> None:
    with Mirror(there, transfers=2, budget_nbytes=12 * MIB) as mirror:
        remotes = [publisher.publish(inputs(seed=n), timeout_s=1) for n in range(30)]

        async def main() -> list[Any]:
            return await asyncio.gather(*(mirror.fetch_async(each) for each in remotes))

        handles = asyncio.run(main())
    assert len({h.offset for h in handles}) == 30
    assert np.array_equal(values_of(handles[7], range(1))[0], inputs(seed=7).items[0].feature)


def test_a_cancelled_fetch_grants_nobody_anything(
    publisher: Publisher, mirror: Mirror, there: mm.Arena
) -> None:
    remote = publisher.publish(inputs(64 * MIB))

    async def main() -> None:
        task = asyncio.create_task(mirror.fetch_async(remote))
        while not mirror.stats().transfers:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    deadline = time.monotonic() + 10
    while mirror.stats().transfers and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    assert there.stats().slots_granted == 0


def test_a_full_local_arena_is_the_callers_to_know_within_the_deadline(
    publisher: Publisher,
) -> None:
    with mm.Arena.create(nbytes=8 * MIB, ranks=1) as small, Mirror(small) as mirror:
        mirror.fetch(publisher.publish(inputs(seed=1)))
        started = time.monotonic()
        with pytest.raises(ArenaFullError):
            mirror.fetch(publisher.publish(inputs(seed=2)), timeout_s=0.3)
        assert time.monotonic() - started < 2
        with pytest.raises(LimitError):
            mirror.fetch(publisher.publish(inputs(9 * MIB)), timeout_s=0.3)


def test_limits_are_checked_before_anything_is_asked(publisher: Publisher, there: mm.Arena) -> None:
    limits = mm.Limits(message_nbytes=1000)
    with Mirror(there, limits=limits) as mirror, pytest.raises(LimitError):
        mirror.fetch(publisher.publish(inputs()))
    assert publisher.stats().sent_nbytes == 0


def test_what_expired_or_was_withdrawn_is_stale(
    here: mm.Arena, publisher: Publisher, mirror: Mirror
) -> None:
    gone = publisher.publish(inputs(seed=1), ttl_s=0.0)
    with pytest.raises(StaleHandleError):
        mirror.fetch(gone)
    taken = publisher.publish(inputs(seed=2))
    assert publisher.withdraw(taken) and not publisher.withdraw(taken)
    with pytest.raises(StaleHandleError):
        mirror.fetch(taken)
    handle = here.put(inputs(seed=3))
    here.revoke(handle)
    with pytest.raises(StaleHandleError):
        publisher.announce(handle)


def test_a_dead_publisher_is_waited_for_until_the_deadline(
    publisher: Publisher, mirror: Mirror
) -> None:
    remote = publisher.publish(inputs())
    publisher.close()
    started = time.monotonic()
    with pytest.raises(TransportTimeoutError):
        mirror.fetch(remote, timeout_s=0.5)
    assert 0.4 < time.monotonic() - started < 3


def test_other_bytes_than_the_digests_are_refused_and_nothing_is_granted(
    publisher: Publisher, mirror: Mirror, there: mm.Arena
) -> None:
    remote = publisher.publish(inputs())
    changed = RemoteHandle(
        **{name: getattr(remote, name) for name in RemoteHandle.__slots__} | {"digest": bytes(32)}
    )
    with pytest.raises(IntegrityError) as caught:
        mirror.fetch(changed)
    assert caught.value.code == "net-digest"
    assert there.stats().slots_granted == 0
    assert there.stats().free_nbytes == there.stats().nbytes


def test_bytes_that_are_no_message_are_granted_to_nobody(
    here: mm.Arena, publisher: Publisher, mirror: Mirror, there: mm.Arena
) -> None:
    slot = here.transport.reserve(100)
    slot.view[:] = b"x" * 100
    with pytest.raises(DecodeError):
        mirror.fetch(publisher.announce(slot.seal()))
    assert there.stats().slots_granted == 0


def test_a_handle_of_another_size_than_its_content_is_refused(
    publisher: Publisher, mirror: Mirror
) -> None:
    remote = publisher.publish(inputs(), hosts=2)
    mirror.fetch(remote)
    fields = {name: getattr(remote, name) for name in RemoteHandle.__slots__}
    with pytest.raises(TransportError) as caught:
        mirror.fetch(RemoteHandle(**fields | {"nbytes": remote.nbytes - 1}))
    assert caught.value.code == "net-handle"


def test_a_publisher_that_is_full_is_asked_again(here: mm.Arena, there: mm.Arena) -> None:
    with Publisher(here, max_streams=1) as publisher, Mirror(there, transfers=6) as mirror:
        remotes = [publisher.publish(inputs(20 * MIB, seed=n)) for n in range(6)]
        with ThreadPoolExecutor(6) as pool:
            handles = list(pool.map(mirror.fetch, remotes))
        assert len({h.offset for h in handles}) == 6
        assert publisher.stats().refused == mirror.stats().resumed


def test_processes_ask_over_a_socket_of_this_user(
    publisher: Publisher, mirror: Mirror, tmp_path: Any
) -> None:
    tmp_path.chmod(0o700)
    with MirrorServer(mirror, tmp_path / "mirror") as server, MirrorClient(server.path) as client:
        remote = publisher.publish(inputs(), hosts=9)
        handle = client.fetch(remote, rank=0)
        assert client.fetch(bytes(remote), rank=1) == handle
        publisher.withdraw(remote)
        gone = publisher.publish(inputs(seed=5), ttl_s=0.0)
        with pytest.raises(StaleHandleError):
            client.fetch(gone)
        with pytest.raises(TransportError) as caught:
            client.fetch(remote, rank=9)
        assert caught.value.code == "reader"
    tmp_path.chmod(0o777)
    with pytest.raises(TransportError) as caught:
        MirrorServer(mirror, tmp_path / "other")
    assert caught.value.code == "net-address"


def test_counts_of_two_publishers_reach_a_prometheus_registry_as_one_family(
    here: mm.Arena, there: mm.Arena
) -> None:
    client = pytest.importorskip("prometheus_client")
    registry = client.CollectorRegistry()
    with (
        Publisher(here, registry=registry) as publisher,
        Publisher(here, registry=registry) as other,
        Mirror(there, registry=registry) as mirror,
    ):
        handle = mirror.fetch(publisher.publish(inputs()))
        name = "mmformat_net_publisher_sent_nbytes_total"
        assert registry.get_sample_value(name, {"name": publisher.location}) == handle.nbytes
        assert registry.get_sample_value(name, {"name": other.location}) == 0
        fetched = "mmformat_net_mirror_fetched_total"
        assert registry.get_sample_value(fetched, {"name": there.name}) == 1
        text = client.generate_latest(registry).decode()
    assert text.count(f"# HELP {name} ") == 1


def test_nothing_is_left_when_both_are_closed(here: mm.Arena, there: mm.Arena) -> None:
    before = threading.active_count()
    with Publisher(here) as publisher, Mirror(there) as mirror:
        mirror.fetch(publisher.publish(inputs()))
        with pytest.raises(TransportError):
            mirror.fetch(b"short")
    with pytest.raises(TransportError) as caught:
        mirror.fetch(publisher_handle())
    assert caught.value.code == "closed"
    deadline = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() == before


def publisher_handle() -> RemoteHandle:
    return RemoteHandle(
        location="grpc://127.0.0.1:1",
        arena="mmf-x",
        segment_id=bytes(16),
        slot=0,
        generation=1,
        nbytes=100,
        digest=bytes(32),
    )


def test_steps_of_the_wall_clock_change_nothing(
    publisher: Publisher, mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Leases and deadlines go by the monotonic clock: days back and forth end none of them."""
    steps = iter(range(10**9))
    monkeypatch.setattr(time, "time", lambda: 1e9 + 86_400.0 * 30 * (-1) ** next(steps))
    monkeypatch.setattr(time, "time_ns", lambda: int(time.time() * 1e9))
    remotes = [publisher.publish(inputs(seed=n), hosts=2, ttl_s=30) for n in range(3)]
    assert [mirror.fetch(each, timeout_s=10).nbytes for each in remotes] == [
        each.nbytes for each in remotes
    ]
    assert mirror.flush()
    time.sleep(0.6)  # the publisher looks for what expired four times a second
    assert publisher.stats().published == 3
    assert publisher.stats().expired == publisher.stats().expired_leases == 0
