"""Hosts as network namespaces: what crosses each interface, what deaths and partitions leave."""

from __future__ import annotations

import contextlib
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.net.fleet import MIB, Program, consumer, digest_of, producer, until
from tests.net.namespaces import Network, network_or_skip
from tests.support.certificates import make_certificates

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3600 if "MMFORMAT_NET_REQUESTS" in os.environ else 240),
]
NBYTES = 25_800_000


@pytest.fixture
def network() -> Iterator[Network]:
    with network_or_skip(5) as made:
        yield made


def fetch(program: Program, *remotes: str, timeout_s: float = 20, **more: Any) -> dict[str, Any]:
    asked = {"do": "fetch", "remotes": remotes, "timeout_s": timeout_s} | more
    return program.ask(within_s=timeout_s + 60, **asked)


def shm_names(pid: int) -> list[str]:
    return [path.name for path in Path("/dev/shm").glob(f"mmf-*-{pid}-*")]


def remove_segments(*programs: Program) -> None:
    """Remove what killed programs left: the next arena of this user would sweep it."""
    for program in programs:
        for name in shm_names(program.pid):
            (Path("/dev/shm") / name).unlink()


def test_two_producers_three_hosts_of_four_ranks_over_tls(network: Network, tmp_path: Path) -> None:
    addresses = tuple(host.address for host in network.hosts)
    make_certificates(tmp_path, addresses=addresses)
    options = {"certificates": str(tmp_path)}
    producers = [producer(host, **options) for host in network.hosts[:2]]
    consumers = [consumer(host, **options) for host in network.hosts[2:]]
    seeds = {n: producers[n % 2] for n in range(6)}
    remotes = {
        seed: each.ask(do="publish", seed=seed, nbytes=4 * MIB + seed, hosts=3)["remote"]
        for seed, each in seeds.items()
    }
    before = [each.host.received_nbytes() for each in consumers]
    for each in consumers:
        seen = fetch(each, *remotes.values())["seen"]
        assert seen == [[digest_of(seed, 4 * MIB + seed)] * 4 for seed in seeds]
    for each, was in zip(consumers, before, strict=True):
        assert 1.0 <= (each.host.received_nbytes() - was) / (6 * 4 * MIB) < 1.05
        state = each.ask(do="state")
        assert state["fetched"] == 6
        assert until(lambda each=each: each.ask(do="state")["slots_granted"] == 0)
    for each in producers:
        assert each.ask(do="wait", timeout_s=10)["done"]
    for each in [*producers, *consumers]:
        each.stop()


@pytest.mark.parametrize("ranks", [1, 2, 4, 8])
def test_the_wire_carries_a_message_once_however_many_ranks(network: Network, ranks: int) -> None:
    source = producer(network.hosts[0])
    target = consumer(network.hosts[1], ranks=ranks)
    # The connection first, so that only the message is counted.
    fetch(target, source.ask(do="publish", seed=0, nbytes=1000)["remote"])
    published = source.ask(do="publish", seed=1, nbytes=NBYTES)
    before = target.host.received_nbytes()
    assert (
        fetch(target, *[published["remote"]] * ranks)["seen"]
        == [[digest_of(1, NBYTES)] * ranks] * ranks
    )
    crossed = (target.host.received_nbytes() - before) / published["nbytes"]
    assert 1.0 <= crossed <= 1.03
    state = target.ask(do="state")
    assert state["fetched"] == 2
    assert state["joined"] + state["present"] >= ranks - 1
    source.stop()
    target.stop()


def test_a_publisher_killed_in_the_middle_leaves_nothing_at_the_mirror(network: Network) -> None:
    network.hosts[1].slow("200mbit")  # 25.8 MB take a second
    source, target = producer(network.hosts[0]), consumer(network.hosts[1])
    remote = source.ask(do="publish", seed=1, nbytes=NBYTES)["remote"]
    target.tell(do="fetch", remotes=[remote], timeout_s=3)
    time.sleep(0.4)
    source.kill()
    answer = target.hear(30)
    assert answer["seen"] == ["timeout"]
    assert answer["fetch_s"][0] < 4
    state = target.ask(do="state")
    assert (state["slots_granted"], state["transfers"]) == (0, 0)
    assert target.ask(do="whole") == {}
    remove_segments(source)
    target.stop()


def test_a_mirror_killed_in_the_middle_gives_the_slot_back(network: Network) -> None:
    network.hosts[1].slow("200mbit")
    source, target = producer(network.hosts[0], ttl_s=1, lease_s=2), consumer(network.hosts[1])
    remote = source.ask(do="publish", seed=1, nbytes=NBYTES)["remote"]
    target.tell(do="fetch", remotes=[remote], timeout_s=20)
    time.sleep(0.4)
    assert source.ask(do="state")["leases"] == 1
    target.kill()
    assert until(lambda: source.ask(do="state")["published"] == 0, 15)
    assert source.ask(do="wait", timeout_s=5)["done"]
    remove_segments(target)
    source.stop()


def test_a_rank_that_is_killed_holds_nothing_and_the_others_read(network: Network) -> None:
    source, target = producer(network.hosts[0]), consumer(network.hosts[1])
    remotes = [source.ask(do="publish", seed=seed, nbytes=MIB)["remote"] for seed in range(3)]
    seen = fetch(target, remotes[0])["seen"][0]
    assert seen == [digest_of(0, MIB)] * 4
    seen = fetch(target, remotes[1], kill_rank=2)["seen"][0]
    assert seen.count(digest_of(1, MIB)) >= 3
    assert fetch(target, remotes[2])["seen"][0].count(digest_of(2, MIB)) >= 3
    assert until(lambda: target.ask(do="state")["slots_granted"] == 0)
    source.stop()
    target.stop()


def test_a_partition_that_heals_in_time_costs_no_byte_twice(network: Network) -> None:
    network.hosts[1].slow("200mbit")
    source, target = producer(network.hosts[0]), consumer(network.hosts[1], stream_s=1.0)
    published = source.ask(do="publish", seed=1, nbytes=NBYTES)
    before = target.host.received_nbytes()
    target.tell(do="fetch", remotes=[published["remote"]], timeout_s=30)
    time.sleep(0.4)
    network.hosts[1].partition()
    time.sleep(2.5)
    network.hosts[1].heal()
    answer = target.hear(60)
    assert answer["seen"] == [[digest_of(1, NBYTES)] * 4]
    assert target.ask(do="state")["resumed"] >= 1
    # What was underway in the old streams when each of them broke is sent again.
    assert (target.host.received_nbytes() - before) / published["nbytes"] < 1.5
    source.stop()
    target.stop()


def test_a_full_arena_is_waited_for_while_the_lease_lives(network: Network) -> None:
    source = producer(network.hosts[0], ttl_s=2, lease_s=5)
    target = consumer(network.hosts[1], nbytes=32 * MIB)
    remote = source.ask(do="publish", seed=1, nbytes=NBYTES)["remote"]
    target.ask(do="fill", nbytes=20 * MIB, for_s=4)
    answer = fetch(target, remote, timeout_s=15)
    assert answer["seen"] == [[digest_of(1, NBYTES)] * 4]
    assert answer["fetch_s"][0] > 3
    source.stop()
    target.stop()


def test_a_slow_host_holds_up_nobody_else(network: Network) -> None:
    network.hosts[1].slow("50mbit")
    source = producer(network.hosts[0])
    slow, quick = consumer(network.hosts[1]), consumer(network.hosts[2])
    remote = source.ask(do="publish", seed=1, nbytes=NBYTES, hosts=2)["remote"]
    slow.tell(do="fetch", remotes=[remote], timeout_s=30)
    time.sleep(0.3)
    assert fetch(quick, remote)["fetch_s"][0] < 2
    assert slow.hear(60)["seen"] == [[digest_of(1, NBYTES)] * 4]
    assert source.ask(do="wait", timeout_s=5)["done"]
    for each in (source, slow, quick):
        each.stop()


def test_what_nobody_came_for_expires_and_is_stale_then(network: Network) -> None:
    source, target = producer(network.hosts[0], ttl_s=0.5), consumer(network.hosts[1])
    remote = source.ask(do="publish", seed=1, nbytes=NBYTES)["remote"]
    assert source.ask(do="wait", timeout_s=5)["done"]
    assert fetch(target, remote)["seen"] == ["stale-handle"]
    source.stop()
    target.stop()


def test_chaos(network: Network) -> None:
    """Kills, partitions and slow links at random; every answer is right, or an error in time.

    ``make net-chaos`` asks for 2,000 requests.
    """
    requests = int(os.environ.get("MMFORMAT_NET_REQUESTS", "60"))
    chance = random.Random(20_261_127)
    options = {"ttl_s": 8, "lease_s": 3, "nbytes": 64 * MIB}
    producers = [producer(host, **options) for host in network.hosts[:2]]
    consumers = [consumer(host, nbytes=64 * MIB, stream_s=1.0) for host in network.hosts[2:]]
    deadline_s, done, errors, away = 6.0, 0, 0, None
    slowest_s = 0.0
    while done < requests:
        event = chance.random()
        if event < 0.03:
            victim = chance.choice([*producers, *consumers])
            victim.kill()
            remove_segments(victim)
            victim.start()
        elif event < 0.08 and away is None:
            away = chance.choice(network.hosts)
            away.partition()
        elif away is not None and event < 0.5:
            away.heal()
            away = None
        elif event < 0.12:
            chance.choice(network.hosts).slow(chance.choice(["100mbit", "1gbit", "10gbit"]))
        source = chance.choice(producers)
        wanted = []
        for _ in range(chance.choice((1, 2, 4))):
            seed, nbytes = chance.randrange(10**6), chance.choice((1000, MIB, 3 * MIB))
            hosts = chance.choice((1, 3))
            said = source.ask(do="publish", seed=seed, nbytes=nbytes, hosts=hosts)
            if "remote" in said:
                wanted.append((said["remote"], digest_of(seed, nbytes), hosts))
        asked = chance.sample(consumers, 3)
        for each in asked:
            mine = [w for w in wanted if w[2] == 3 or each is asked[0]]
            more = {"kill_rank": chance.randrange(4)} if chance.random() < 0.03 else {}
            remotes = [remote for remote, _, _ in mine]
            each.tell(do="fetch", remotes=remotes, timeout_s=deadline_s, **more)
        for each in asked:
            mine = [w for w in wanted if w[2] == 3 or each is asked[0]]
            answer = each.hear(deadline_s + 60)
            for (_, digest, _), seen in zip(mine, answer["seen"], strict=True):
                done += 1
                if isinstance(seen, str):
                    assert seen in {"timeout", "stale-handle", "arena-full"}, seen
                    errors += 1
                else:
                    assert set(seen) <= {digest, "dead", "stale-handle"}, seen
                    assert digest in seen
            slowest_s = max(slowest_s, *answer["fetch_s"], 0.0)
    if away is not None:
        away.heal()
    assert slowest_s < deadline_s + 1.5
    assert errors < done / 3
    for each in consumers:
        assert until(lambda each=each: each.ask(do="state")["slots_granted"] == 0, 20)
        assert each.ask(do="whole") == {}
    for each in producers:
        assert each.ask(do="wait", timeout_s=20, within_s=60)["done"]
        state = each.ask(do="state")
        assert (state["published"], state["leases"], state["streams"]) == (0, 0, 0)
    print(f"{done} requests, {errors} errors, slowest {slowest_s:.1f} s")
    for each in [*producers, *consumers]:
        with contextlib.suppress(OSError):
            each.stop()
        assert not shm_names(each.pid)
