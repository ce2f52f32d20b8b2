"""Releases come behind their events, and none is lost."""

from __future__ import annotations

import gc
import logging
import queue
import threading
import weakref

import pytest

from mmformat.cuda import Releases


class Event:
    """An event of a device that this machine lacks: it happens when the test says so."""

    def __init__(self, error: Exception | None = None) -> None:
        self.happened = threading.Event()
        self.error = error

    def synchronize(self) -> None:
        self.happened.wait(30)
        if self.error is not None:
            raise self.error

    def query(self) -> bool:
        if self.happened.is_set() and self.error is not None:
            raise self.error
        return self.happened.is_set()


def test_without_an_event_it_is_at_once() -> None:
    called = []
    Releases().add(None, lambda: called.append(1))
    assert called == [1]


def test_it_waits_for_the_event_and_close_waits_for_all() -> None:
    called = []
    releases, event = Releases(), Event()
    releases.add(event, lambda: called.append(1))
    releases.add(event, lambda: called.append(2))
    assert called == []
    event.happened.set()
    releases.close()
    assert called == [1, 2]
    releases.add(event, lambda: called.append(3))  # it may go on after a close
    releases.close()
    assert called == [1, 2, 3]


def test_events_that_happen_in_another_order_are_released_in_theirs() -> None:
    called = queue.SimpleQueue()
    releases, late, early = Releases(), Event(), Event()
    releases.add(late, lambda: called.put("late"))
    releases.add(early, lambda: called.put("early"))
    early.happened.set()
    assert called.get(timeout=30) == "early"
    late.happened.set()
    assert called.get(timeout=30) == "late"
    releases.close()


def test_a_thread_that_went_to_sleep_is_woken() -> None:
    called = queue.SimpleQueue()
    releases, event = Releases(), Event()
    event.happened.set()
    for number in range(3):
        releases.add(event, lambda number=number: called.put(number))
        assert called.get(timeout=30) == number
    releases.close()


def test_a_broken_context_still_releases(caplog) -> None:
    called = []
    releases, event = Releases(), Event(RuntimeError("CUDA error: unspecified launch failure"))
    event.happened.set()
    with caplog.at_level(logging.WARNING, "mmformat.cuda"):
        releases.add(event, lambda: called.append(1))
        releases.close()
    assert called == [1]
    assert "unspecified launch failure" in caplog.text


@pytest.mark.parametrize("used", [False, True])
def test_dropping_it_ends_its_thread(used) -> None:
    releases, event = Releases(), Event()
    event.happened.set()
    before = threading.active_count()
    if used:
        releases.add(event, lambda: None)
    gone = weakref.ref(releases)
    thread = releases._thread
    del releases
    gc.collect()
    assert gone() is None
    if thread is not None:
        thread.join(30)
    assert threading.active_count() == before
