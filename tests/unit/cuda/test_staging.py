"""Chunks of any size put together what was cut, whatever the sources' borders are."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmformat.cuda import Staging, lane_of

CPU = torch.device("cpu")


@given(
    sizes=st.lists(st.integers(0, 50), max_size=8),
    chunk_nbytes=st.integers(1, 64),
    chunks=st.integers(1, 4),
)
def test_every_byte_arrives_in_order(sizes, chunk_nbytes, chunks) -> None:
    sources = [torch.randint(0, 256, (size,), dtype=torch.uint8) for size in sizes]
    expected = torch.cat([*sources, torch.empty(0, dtype=torch.uint8)])
    target = torch.full_like(expected, 255)
    staging = Staging(CPU, chunk_nbytes=chunk_nbytes, chunks=chunks)
    staging.copy([each for each in sources if each.numel()], target, lane_of(CPU))
    assert torch.equal(target, expected)


@pytest.mark.parametrize("nbytes", [0, 1])
def test_no_buffers_are_made_for_nothing(nbytes) -> None:
    staging = Staging(CPU, chunk_nbytes=16, chunks=2)
    source = torch.ones(nbytes, dtype=torch.uint8)
    staging.copy([source], torch.empty_like(source), lane_of(CPU))
    assert len(staging._buffers) == 2 * nbytes
