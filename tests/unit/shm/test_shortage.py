"""A full arena names its cause: slots or bytes, who holds them, and what frees them."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from mmformat.errors import ArenaFullError
from mmformat.shm import Handle, ShmArena, ShmReader
from mmformat.shm.layout import PAGE

PAGES = 8


@pytest.fixture
def arena() -> Iterator[ShmArena]:
    with ShmArena.create(nbytes=PAGES * PAGE, ranks=3, slots=4) as made:
        yield made


def _put(arena: ShmArena, pages: int) -> Handle:
    with arena.reserve(pages * PAGE) as slot:
        slot.view[:2] = b"xy"
        return slot.seal()


def _full(arena: ShmArena, pages: int) -> ArenaFullError:
    with pytest.raises(ArenaFullError) as caught:
        arena.reserve(pages * PAGE)
    assert caught.value.code == "arena-full"
    return caught.value


def test_ranks_that_never_attached_are_named_apart_from_those_that_hold(arena: ShmArena) -> None:
    with ShmReader.attach(arena.name, rank=0) as zero, ShmReader.attach(arena.name, rank=1):
        first, second = _put(arena, 3), _put(arena, 4)
        zero.release(first)
        error = _full(arena, 2)
        assert "too few bytes are free" in str(error)
        assert f"rank 1 holds 2 ({7 * PAGE:,} bytes), " in str(error)
        assert f"rank 2 holds 2 ({7 * PAGE:,} bytes) and has never attached" in str(error)
        assert f"rank 0 holds 1 ({4 * PAGE:,} bytes)" in str(error)
        assert error.hint is not None
        assert "attach rank 2" in error.hint
        assert "fewer ranks" in error.hint
        assert "drop the tensors in the ranks" in error.hint
        assert "with more bytes" in error.hint
        zero.release(second)
        assert "rank 0" not in str(_full(arena, 2))


def test_slots_that_ran_out_are_not_bytes_that_ran_out(arena: ShmArena) -> None:
    with ShmReader.attach(arena.name, rank=0):
        for _ in range(4):
            _put(arena, 1)
        error = _full(arena, 1)
    assert "every slot is taken; rank" in str(error)
    assert "0 free of 4 slots" in str(error)
    assert error.hint is not None
    assert "with more slots" in error.hint


def test_bytes_that_lie_in_pieces_are_said_to(arena: ShmArena) -> None:
    ranks = [ShmReader.attach(arena.name, rank=reader) for reader in range(3)]
    handles = [_put(arena, 2) for _ in range(4)]
    for rank in ranks:
        rank.release(handles[0])
        rank.release(handles[2])
    error = _full(arena, 4)
    assert "the free bytes lie in pieces" in str(error)
    assert f"got {4 * PAGE:,} free of {PAGES * PAGE:,} ({2 * PAGE:,} in one piece)" in str(error)
    assert "never attached" not in str(error)
    for rank in ranks:
        rank.close()


def test_what_the_producer_keeps_is_its_own_to_drop(arena: ShmArena) -> None:
    unsealed = arena.reserve(5 * PAGE)
    error = _full(arena, 4)
    assert "1 reserved and not sealed" in str(error)
    assert re.search(r"rank \d", str(error)) is None
    assert error.hint is not None
    assert error.hint.startswith("seal or abandon what is reserved; ")
    view = unsealed.view[:1]
    unsealed.abandon()
    error = _full(arena, 4)
    assert error.hint is not None
    assert f"own tensors over sealed slots ({5 * PAGE:,} bytes)" in error.hint
    del view
    with arena.reserve(4 * PAGE):
        pass
