"""Long text that stands for bytes is made bytes piece by piece, and refused when it is none."""

from __future__ import annotations

import pickle
import random
from pathlib import Path

import numpy as np
import pytest

import mmformat as mm
from mmformat.legacy import convert
from mmformat.legacy.nodes import LONG_NBYTES, LatinText


@pytest.mark.parametrize("nbytes", [0, 1, LONG_NBYTES - 1, LONG_NBYTES, 3 * LONG_NBYTES + 7])
def test_every_byte_comes_back(nbytes: int) -> None:
    """Also where a piece would end within a character."""
    wanted = random.Random(nbytes).randbytes(nbytes)
    text = wanted.decode("latin-1").encode()
    assert LatinText(memoryview(text)).encoded("$").tobytes() == wanted


@pytest.mark.parametrize(
    "text", ["\u0100" * LONG_NBYTES, b"\x80" * LONG_NBYTES, b"a" * LONG_NBYTES + b"\xc3"]
)
def test_what_is_no_latin1_is_refused(text: str | bytes) -> None:
    data = text.encode() if isinstance(text, str) else text
    with pytest.raises(mm.DecodeError, match="latin-1"):
        LatinText(memoryview(data)).encoded("$")


@pytest.mark.parametrize("isolated", [False, True], ids=["in-process", "isolated"])
@pytest.mark.parametrize("protocol", [0, 1, 2])
def test_shared_bytes_are_whole_at_each_place(
    tmp_path: Path, protocol: int, isolated: bool
) -> None:
    """Memory that two tensors look at is not given back after the first."""
    array = np.frombuffer(random.Random(1).randbytes(12 * 2**20), np.uint8)
    raw = array[: 2**20].tobytes()
    path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps({"a": array, "b": raw, "c": array, "d": raw}, protocol=protocol))
    made = convert(path, isolated=isolated).request_data
    assert np.array_equal(made["a"], array)
    assert np.array_equal(made["c"], array)
    assert made["b"] == made["d"] == raw


def test_long_text_that_is_text_stays_text() -> None:
    text = "\u0100a" * LONG_NBYTES
    assert convert(pickle.dumps({"a": text}, 2), isolated=False).request_data == {"a": text}


def test_a_long_bytearray() -> None:
    wanted = bytearray(random.Random(2).randbytes(2 * LONG_NBYTES))
    assert convert(pickle.dumps({"a": wanted}, 2)).request_data == {"a": bytes(wanted)}
