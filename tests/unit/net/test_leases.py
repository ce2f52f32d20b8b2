"""The lease table against an oracle that remembers everything and expires it one by one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from mmformat.errors import StaleHandleError, TransportError
from mmformat.net import leases as module
from mmformat.net.leases import LeaseTable, Publication

LEASE_S = 10.0
KEYS = [(b"s" * 16, slot, 1) for slot in range(3)]
MIRRORS = [bytes([n]) * 16 for n in range(3)]


def publication(key: Any, *, hosts: int = 1, until_s: float = 100.0) -> Publication:
    view = np.zeros(8, np.uint8)
    return Publication(key=key, view=view, digest=bytes(32), hosts=hosts, until_s=until_s)


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Iterator[Clock]:
    yield Clock()


def test_the_last_of_the_hosts_ends_it(clock: Clock) -> None:
    table = LeaseTable(lease_s=LEASE_S, clock=clock)
    table.add(publication(KEYS[0], hosts=2))
    table.lease(KEYS[0], MIRRORS[0])
    table.acknowledge(KEYS[0], MIRRORS[0])
    table.acknowledge(KEYS[0], MIRRORS[0])  # the same host again counts once
    assert len(table) == 1
    table.acknowledge(KEYS[0], MIRRORS[1])
    assert len(table) == 0
    with pytest.raises(StaleHandleError):
        table.lease(KEYS[0], MIRRORS[0])


def test_a_lease_outlives_the_publications_own_time_and_a_dead_mirror_does_not(
    clock: Clock,
) -> None:
    table = LeaseTable(lease_s=LEASE_S, clock=clock)
    table.add(publication(KEYS[0], until_s=5.0))
    clock.now_s = 4.0
    table.lease(KEYS[0], MIRRORS[0])
    clock.now_s = 13.0
    assert table.expire() == 0
    table.lease(KEYS[0], MIRRORS[0])  # kept alive
    clock.now_s = 22.0
    assert table.expire() == 0
    clock.now_s = 23.0
    assert table.expire() == 1
    assert (len(table), table.expired, table.expired_leases) == (0, 1, 1)


def test_a_broken_stream_leaves_little_time(clock: Clock) -> None:
    table = LeaseTable(lease_s=LEASE_S, clock=clock)
    table.add(publication(KEYS[0], until_s=1.0))
    table.lease(KEYS[0], MIRRORS[0])
    table.shorten(KEYS[0], MIRRORS[0], to_s=2.0)
    clock.now_s = 2.5
    assert table.expire() == 1


def test_both_kinds_of_entries_are_bounded(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_PUBLICATIONS", 2)
    monkeypatch.setattr(module, "MAX_MIRRORS", 2)
    table = LeaseTable(lease_s=LEASE_S, clock=clock)
    table.add(publication(KEYS[0], hosts=9))
    table.add(publication(KEYS[1]))
    with pytest.raises(TransportError) as caught:
        table.add(publication(KEYS[2]))
    assert caught.value.code == "net-full"
    table.lease(KEYS[0], MIRRORS[0])
    table.acknowledge(KEYS[0], MIRRORS[1])
    with pytest.raises(TransportError) as caught:
        table.lease(KEYS[0], MIRRORS[2])
    assert caught.value.code == "net-full"


class Leases(RuleBasedStateMachine):
    """Every operation beside an oracle: a publication is a list of who needs it until when."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.table = LeaseTable(lease_s=LEASE_S, clock=self.clock)
        self.oracle: dict[Any, dict[str, Any]] = {}

    def settle(self) -> None:
        for key, each in list(self.oracle.items()):
            each["leases"] = {m: e for m, e in each["leases"].items() if e > self.clock.now_s}
            done = len(each["finished"]) >= each["hosts"] or each["until"] <= self.clock.now_s
            if done and not each["leases"]:
                del self.oracle[key]

    @rule(key=st.sampled_from(KEYS), hosts=st.integers(1, 3), ttl=st.floats(0, 30, allow_nan=False))
    def add(self, key: Any, hosts: int, ttl: float) -> None:
        self.settle()
        until = self.clock.now_s + ttl
        self.table.add(publication(key, hosts=hosts, until_s=until))
        there = self.oracle.get(key)
        if there is None:
            new = {"hosts": hosts, "until": until, "leases": {}, "finished": set()}
            self.oracle[key] = new
        else:
            there["hosts"] += hosts
            there["until"] = max(there["until"], until)

    @rule(key=st.sampled_from(KEYS), mirror=st.sampled_from(MIRRORS))
    def lease(self, key: Any, mirror: bytes) -> None:
        self.settle()
        if key in self.oracle:
            assert self.table.lease(key, mirror).key == key
            self.oracle[key]["leases"][mirror] = self.clock.now_s + LEASE_S
        else:
            with pytest.raises(StaleHandleError):
                self.table.lease(key, mirror)

    @rule(key=st.sampled_from(KEYS), mirror=st.sampled_from(MIRRORS))
    def acknowledge(self, key: Any, mirror: bytes) -> None:
        self.table.expire()
        self.settle()
        self.table.acknowledge(key, mirror)
        if key in self.oracle:
            self.oracle[key]["leases"].pop(mirror, None)
            self.oracle[key]["finished"].add(mirror)

    @rule(key=st.sampled_from(KEYS), mirror=st.sampled_from(MIRRORS))
    def shorten(self, key: Any, mirror: bytes) -> None:
        self.settle()
        self.table.shorten(key, mirror, to_s=2.0)
        leases = self.oracle.get(key, {}).get("leases", {})
        if mirror in leases:
            leases[mirror] = min(leases[mirror], self.clock.now_s + 2.0)

    @rule(key=st.sampled_from(KEYS))
    def withdraw(self, key: Any) -> None:
        self.table.expire()
        self.settle()
        assert self.table.withdraw(key) == (self.oracle.pop(key, None) is not None)

    @rule(step=st.floats(0, 15, allow_nan=False))
    def time_passes(self, step: float) -> None:
        self.clock.now_s += step

    @invariant()
    def the_same_is_published(self) -> None:
        self.table.expire()
        self.settle()
        assert len(self.table) == len(self.oracle)
        assert self.table.leases == sum(len(each["leases"]) for each in self.oracle.values())
        assert self.table.nbytes == 8 * len(self.oracle)


TestLeases = Leases.TestCase
TestLeases.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
