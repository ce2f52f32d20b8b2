"""Handles that were dropped on their way come back to the arena, from the same user alone."""

from __future__ import annotations

import socket
import threading

import numpy as np
import pytest

import mmformat as mm
from mmformat.adapters.vllm.returns import ReturnedHandles, flush, give_back
from tests.support.requests import request_of


def _inputs(number: int) -> mm.MultimodalInputs:
    return request_of(np.full((2, 3), number, np.float32))


def test_a_slot_is_free_again() -> None:
    with mm.Arena.create(nbytes=2**16, ranks=3) as arena:
        returns = ReturnedHandles(arena)
        kept, dropped = arena.put(_inputs(1)), arena.put(_inputs(2))
        give_back(bytes(dropped))
        assert (returns.collect(), returns.collect()) == (1, 0)
        assert arena.stats().slots_granted == 1
        with mm.Arena.attach(kept, rank=0) as reader, pytest.raises(mm.StaleHandleError):
            reader.get(dropped)
        returns.close()


def test_more_than_the_kernel_queues_are_not_lost() -> None:
    """What there is no room for goes with a later one."""
    with mm.Arena.create(nbytes=2**24, ranks=1, slots=2048) as arena:
        returns = ReturnedHandles(arena)
        handles = [bytes(arena.put(_inputs(number))) for number in range(1500)]
        threads = [
            threading.Thread(target=lambda part: [*map(give_back, part)], args=(handles[at::3],))
            for at in range(3)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for _ in range(20):
            returns.collect()
            flush()
        assert arena.stats().slots_granted == 0
        returns.close()


def test_what_is_no_handle_of_this_arena_is_nothing() -> None:
    with (
        mm.Arena.create(nbytes=2**16, ranks=1) as arena,
        mm.Arena.create(nbytes=2**16, ranks=1) as other,
    ):
        returns = ReturnedHandles(arena)
        inside, outside = bytes(arena.put(_inputs(1))), bytes(other.put(_inputs(1)))
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as stranger:
            framed = [len(part).to_bytes(2, "little") + part for part in (outside, inside[:-1])]
            for data in (*framed, framed[0][:-5], inside, b"", b"x" * 400):
                stranger.sendto(data, b"\0mmformat-returns-" + arena.name.encode())
        assert returns.collect() == 0
        assert arena.stats().slots_granted == 1
        returns.close()
        give_back(inside)  # nobody listens: nothing happens


def test_a_second_producer_of_one_name_says_so(caplog: pytest.LogCaptureFixture) -> None:
    with mm.Arena.create(nbytes=2**16, ranks=1) as arena:
        first, second = ReturnedHandles(arena), ReturnedHandles(arena)
        assert "stay held" in caplog.text
        assert second.collect() == 0
        first.close()
        second.close()
