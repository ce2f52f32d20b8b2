"""A glance at a message says whether it is compressed, and never fails."""

from __future__ import annotations

import numpy as np
import pytest

import mmformat as mm
from mmformat.codec.record_batch import is_compressed


def inputs(rows: int) -> mm.MultimodalInputs:
    return mm.MultimodalInputs(
        request_data={"a": np.zeros((rows, 1024), np.float32), "b": np.ones(7)}
    )


@pytest.mark.parametrize("rows", [1, 3000])
def test_a_plain_message_is_not(rows) -> None:
    assert not is_compressed(memoryview(bytes(mm.encode(inputs(rows)))))


def test_a_compressed_batch_behind_a_plain_one_is_seen() -> None:
    message = mm.encode(inputs(3000), compression="lz4")
    assert message.nbytes < 3000 * 1024 * 4
    assert is_compressed(memoryview(bytes(message)))


def test_below_the_threshold_nothing_is_compressed() -> None:
    assert not is_compressed(memoryview(bytes(mm.encode(inputs(10), compression="lz4"))))


@pytest.mark.parametrize("nbytes", [0, 7, 100, 5000, 100_000])
@pytest.mark.parametrize("byte", [0, 1, 127, 255])
def test_any_bytes_give_an_answer(nbytes, byte) -> None:
    assert is_compressed(memoryview(bytes([byte]) * nbytes)) in {True, False}
