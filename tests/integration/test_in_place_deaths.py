"""A producer that dies half-way through an image: its ranks keep what they have, nothing stays."""

from __future__ import annotations

import multiprocessing
from typing import Any

import pytest

import mmformat as mm
from mmformat.media.image import FixedSizeImageProcessor
from mmformat.shm.sweep import list_segments, sweep
from mmformat.testing.equality import assert_inputs_equal
from tests.integration.in_place_processes import PIXELS, produce, request_of


@pytest.mark.parametrize("reuse", ["request", "items"])
def test_a_producer_that_is_killed_while_it_writes_pixels(reuse: Any) -> None:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=produce, args=(theirs, reuse))
    process.start()
    theirs.close()
    name, raw = ours.recv()
    expected = mm.materialize(request_of(PIXELS), FixedSizeImageProcessor())
    with mm.Arena.attach(raw, rank=0) as rank:
        ours.send("go on")
        process.join(60)
        assert process.exitcode == -9
        assert not rank.producer_alive
        assert_inputs_equal(rank.get(raw), expected)
        assert name in [each.name for each in list_segments()]
    sweep()  # or any other start on this machine, which may have been quicker
    assert name not in [each.name for each in list_segments()]
    ours.close()
