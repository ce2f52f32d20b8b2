"""The contract of every way from one producer to N ranks; a transport passes it whole."""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from mmformat.errors import StaleHandleError, TransportError

RANKS = 3


class ChannelContract(ABC):
    """Say how to send one message to all ranks and what each gets; the cases are here."""

    @abstractmethod
    def exchange(self, messages: Sequence[bytes]) -> list[list[Any]]:
        """Send every message to every rank, and return a list of buffers for each rank."""

    @pytest.mark.parametrize("nbytes", [64, 4095, 4096, 4097, 65_536, 1_000_003])
    def test_every_rank_gets_the_same_bytes(self, nbytes: int) -> None:
        message = _message(nbytes)
        for received in self.exchange([message]):
            assert bytes(received[0]) == message

    def test_messages_keep_their_order(self) -> None:
        messages = [_message(64 + number) for number in range(20)]
        for received in self.exchange(messages):
            assert [bytes(buffer) for buffer in received] == messages

    def test_random_sizes(self) -> None:
        rng = np.random.default_rng(7)
        messages = [_message(int(nbytes)) for nbytes in rng.integers(64, 200_000, 30)]
        digests = [hashlib.sha256(message).digest() for message in messages]
        for received in self.exchange(messages):
            assert [hashlib.sha256(buffer).digest() for buffer in received] == digests


def _message(nbytes: int) -> bytes:
    """Bytes that start and end as an Arrow stream, which is all that a channel looks at."""
    return b"\xff\xff\xff\xff" + os.urandom(nbytes - 12) + b"\xff\xff\xff\xff" + bytes(4)


class ArenaContract(ABC):
    """Say how to create an arena and attach to it; who maps, holds and releases is here."""

    @abstractmethod
    def create(self, **options: Any) -> Any:
        """Return an arena of RANKS readers."""

    @abstractmethod
    def attach(self, arena: Any, rank: int) -> Any:
        """Attach to it as this rank."""

    def _put(self, arena: Any, content: bytes, **options: Any) -> Any:
        slot = arena.reserve(len(content))
        slot.view[:] = content
        return slot.seal(**options)

    def test_what_is_mapped_is_private_and_writable(self) -> None:
        arena = self.create(nbytes=2**16)
        ranks = [self.attach(arena, rank) for rank in range(RANKS)]
        handle = self._put(arena, b"hello")
        views = [np.frombuffer(rank.map(handle), np.uint8) for rank in ranks]
        views[0] += 1
        assert bytes(views[0]) == b"ifmmp"
        assert bytes(views[1]) == b"hello"
        self._end(arena, ranks, views)

    def test_a_handle_lives_until_its_last_view_here(self) -> None:
        arena = self.create(nbytes=2**16)
        ranks = [self.attach(arena, rank) for rank in range(RANKS)]
        handle = self._put(arena, b"hello")
        first = ranks[0].map(handle)
        second = memoryview(ranks[0].map(handle))[1:]
        with pytest.raises(TransportError) as caught:
            ranks[0].release(handle)
        assert caught.value.code == "views-alive"
        del first
        assert bytes(ranks[0].map(handle)) == b"hello"
        del second
        with pytest.raises(StaleHandleError):
            ranks[0].map(handle)
        self._end(arena, ranks, [])

    def test_room_comes_back_when_all_have_released(self) -> None:
        arena = self.create(nbytes=2**16)
        ranks = [self.attach(arena, rank) for rank in range(RANKS)]
        for _ in range(5):
            handle = self._put(arena, bytes(2**16))
            for rank in ranks:
                with pytest.raises(TransportError) as caught:
                    arena.reserve(1)
                assert caught.value.code == "arena-full"
                rank.release(handle)
        self._end(arena, ranks, [])

    def test_a_rank_that_comes_late_is_waited_for_and_one_that_left_is_not(self) -> None:
        arena = self.create(nbytes=2**16)
        ranks = [self.attach(arena, rank) for rank in range(RANKS - 1)]
        handle = self._put(arena, b"early")
        late = self.attach(arena, RANKS - 1)
        assert bytes(late.map(handle)) == b"early"
        late.close()
        later = self._put(arena, b"later")
        for rank in ranks:
            assert bytes(rank.map(later)) == b"later"
        again = self.attach(arena, RANKS - 1)
        with pytest.raises(StaleHandleError):
            again.map(later)
        self._end(arena, [*ranks, again], [])

    def test_content_that_is_there_is_granted_again(self) -> None:
        arena = self.create(nbytes=2**16)
        ranks = [self.attach(arena, rank) for rank in range(RANKS)]
        assert arena.find(b"image") is None
        handle = self._put(arena, b"hello", identity=b"image")
        for rank in ranks:
            rank.release(handle)
        again = arena.find(b"image")
        for rank in ranks:
            assert bytes(rank.map(again)) == b"hello"
        self._end(arena, ranks, [])

    def test_what_is_revoked_is_stale_and_room_again_and_stays_known(self) -> None:
        arena = self.create(nbytes=2**16)
        rank = self.attach(arena, 0)
        handle = self._put(arena, b"hello", identity=b"image")
        arena.revoke(handle)
        for verb in (rank.map, rank.release):
            with pytest.raises(StaleHandleError):
                verb(handle)
        again = arena.find(b"image")
        arena.revoke(handle)  # once is enough, and of another grant nothing is taken
        assert bytes(rank.map(again)) == b"hello"
        later = arena.find(b"image")
        arena.revoke(later)
        arena.reserve(2**16 - 4096).abandon()
        self._end(arena, [rank], [])

    @pytest.mark.parametrize("rank", [-1, RANKS])
    def test_a_rank_that_there_is_not(self, rank: int) -> None:
        arena = self.create(nbytes=2**16)
        with pytest.raises(TransportError) as caught:
            self.attach(arena, rank)
        assert caught.value.code == "reader"
        self._end(arena, [], [])

    def test_a_rank_that_is_there_already(self) -> None:
        arena = self.create(nbytes=2**16)
        rank = self.attach(arena, 0)
        with pytest.raises(TransportError) as caught:
            self.attach(arena, 0)
        assert caught.value.code == "reader-taken"
        self._end(arena, [rank], [])

    def test_what_is_closed_says_so(self) -> None:
        arena = self.create(nbytes=2**16)
        rank = self.attach(arena, 0)
        handle = self._put(arena, b"hello")
        rank.close()
        arena.close()
        for verb in (lambda: rank.map(handle), lambda: rank.release(handle), arena_reserve(arena)):
            with pytest.raises(TransportError) as caught:
                verb()
            assert caught.value.code == "closed"

    def _end(self, arena: Any, ranks: Sequence[Any], views: list[Any]) -> None:
        views.clear()
        for rank in ranks:
            rank.close()
        arena.close()


def arena_reserve(arena: Any) -> Any:
    """Return a call that reserves one byte."""
    return lambda: arena.reserve(1)
