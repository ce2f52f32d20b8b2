"""Ranges of pages: never two owners of a page, nothing lost, best fit."""

from __future__ import annotations

import random

import pytest

from mmformat.shm.allocator import Allocator
from mmformat.shm.layout import PAGE


@pytest.mark.parametrize("seed", range(20))
def test_against_a_map_of_pages(seed: int) -> None:
    """A list with an owner per page is the oracle."""
    rng = random.Random(seed)
    pages = 64
    start = 3 * PAGE
    allocator = Allocator(start, pages * PAGE)
    owner: list[int | None] = [None] * pages
    live: dict[int, tuple[int, int]] = {}
    for step in range(400):
        if live and rng.random() < 0.5:
            key = rng.choice(list(live))
            begin, nbytes = live.pop(key)
            allocator.give(begin, nbytes)
            owner = [None if o == key else o for o in owner]
        else:
            nbytes = rng.randint(1, 12 * PAGE)
            wanted = -(-nbytes // PAGE)
            runs = _runs(owner)
            fitting = [length for _, length in runs if length >= wanted]
            begin = allocator.take(nbytes)
            if not fitting:
                assert begin is None
                continue
            assert begin is not None
            first = (begin - start) // PAGE
            assert all(o is None for o in owner[first : first + wanted])
            length = next(n for at, n in runs if at <= first < at + n)
            assert length == min(fitting), "the smallest range that fits"
            owner[first : first + wanted] = [step] * wanted
            live[step] = (begin, nbytes)
            if rng.random() < 0.3 and wanted > 1:
                kept = rng.randint(1, nbytes)
                allocator.shrink(begin, nbytes, kept)
                live[step] = (begin, kept)
                owner[first - (-kept // PAGE) : first + wanted] = [None] * (
                    wanted - -(-kept // PAGE)
                )
        free = [(start + at * PAGE, n * PAGE) for at, n in _runs(owner)]
        assert allocator.ranges == free
        assert allocator.free_nbytes == sum(n for _, n in free)
        assert allocator.largest == max((n for _, n in free), default=0)


def _runs(owner: list[int | None]) -> list[tuple[int, int]]:
    runs: list[tuple[int, int]] = []
    for at, holder in enumerate(owner):
        if holder is None:
            if runs and sum(runs[-1]) == at:
                runs[-1] = (runs[-1][0], runs[-1][1] + 1)
            else:
                runs.append((at, 1))
    return runs
