"""Any bytes give a value or an MMFormatError: never a crash, another exception, or much memory."""

from __future__ import annotations

import functools
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmformat.codec import decode
from mmformat.codec.describe import describe
from mmformat.codec.schema import SCHEMA_MESSAGE
from mmformat.codec.verify import CLAUSES, verify
from mmformat.testing import Vector, golden_vectors
from mmformat.testing.equality import twin_of
from tests.support.sweep import LIMITS, cuts, flips, outcome, sweep

VALID = golden_vectors("valid")
SMALL = [vector for vector in VALID if vector.path.stat().st_size < 4200]
OUTCOMES = {*CLAUSES, "value"}


@functools.cache
def _data() -> list[bytes]:
    return [vector.read() for vector in golden_vectors()]


def _all_readers(data: bytes) -> None:
    assert outcome(data) in OUTCOMES
    assert outcome(data, describe) in OUTCOMES
    assert outcome(data, verify) == "value"  # verify tells, and never raises for what it reads


@settings(max_examples=300)
@given(st.binary(max_size=300), st.booleans())
def test_random_bytes(noise: bytes, behind_a_schema: bool) -> None:
    """Clauses: E-3."""
    _all_readers(SCHEMA_MESSAGE * behind_a_schema + noise)


@settings(max_examples=500)
@given(st.data())
def test_mutated_vectors(data: st.DataObject) -> None:
    """Clauses: E-3. Bytes overwritten with edge values, inserted, removed."""
    message = bytearray(data.draw(st.sampled_from(_data())))
    edges = [b"\0", b"\xff", b"\x80", b"\x7f", b"\xff\xff\xff\x7f", b"\0\0\0\x80", b"\xff" * 8]
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, max(0, len(message) - 1)))
        new = data.draw(st.sampled_from(edges) | st.binary(max_size=16))
        removed = data.draw(st.sampled_from([len(new), len(new), 0, 8, 64]))
        message[at : at + removed] = new
    _all_readers(bytes(message))


@settings(max_examples=200)
@given(st.data())
def test_spliced_vectors(data: st.DataObject) -> None:
    """Clauses: E-3. The head of one message and the tail of another."""
    first, second = data.draw(st.sampled_from(_data())), data.draw(st.sampled_from(_data()))
    cut = data.draw(st.integers(0, len(first) // 8)) * 8
    other = data.draw(st.integers(0, len(second) // 8)) * 8
    _all_readers(first[:cut] + second[other:])


@pytest.mark.parametrize("vector", SMALL, ids=lambda vector: vector.name)
def test_a_message_cut_anywhere_is_truncated(vector: Vector) -> None:
    """Clauses: L-3, E-3. At every length below its own."""
    assert {outcome(case) for case in cuts(vector.read())} == {"truncated"}


@pytest.mark.parametrize("vector", SMALL, ids=lambda vector: vector.name)
def test_a_flip_in_the_headers_is_refused_or_harmless(vector: Vector) -> None:
    """Clauses: E-3. Each byte of the metadata once; what is still read has the same values."""
    data = vector.read()
    expected = vector.expected()
    counts: Counter[str] = Counter()
    for batch in describe(data).batches:
        head = data[: batch.body_at]
        for case in flips(head, len(head), bits=1):
            if case[: batch.at] != data[: batch.at]:
                continue  # the schema message is that of every vector: once is enough
            found = outcome(case + data[batch.body_at :])
            counts[found] += 1
            if found == "value":
                # Arrow reads it too: no reader accepts what another one refuses.
                assert not verify(case + data[batch.body_at :], limits=LIMITS)
                assert twin_of(decode(case + data[batch.body_at :], limits=LIMITS)) == expected
    assert set(counts) <= OUTCOMES
    assert not counts or counts["value"] < sum(counts.values()) / 2, counts


def test_a_flip_in_the_schema_is_refused_or_harmless() -> None:
    """Clauses: S-1, S-5. Every bit of the schema message."""
    vector = next(vector for vector in VALID if vector.name == "zero-dim")
    data, expected = vector.read(), vector.expected()
    counts: Counter[str] = Counter()
    for case in flips(data, len(SCHEMA_MESSAGE), bits=8):
        found = outcome(case)
        counts[found] += 1
        if found == "value":
            assert twin_of(decode(case)) == expected
    assert set(counts) <= OUTCOMES
    assert counts["schema"] > counts["value"] > 0, counts


@pytest.mark.parametrize("is_warm", [False, True], ids=["cold", "warm"])
def test_the_long_sweep_counts_every_case(monkeypatch: pytest.MonkeyPatch, is_warm: bool) -> None:
    """It runs by hand over all vectors; here over the smallest, so that it keeps working."""
    vector = min(VALID, key=lambda vector: vector.path.stat().st_size)
    monkeypatch.setattr("tests.support.sweep.golden_vectors", lambda kind: [vector])
    swept = sweep(bits=1, is_warm=is_warm)
    counts, nbytes = swept.counts, len(vector.read())
    assert swept.escaped == []
    assert swept.silent == 0
    assert sum(counts.values()) == 4 * nbytes
    assert counts["cut decode truncated"] == counts["cut describe truncated"] == nbytes
    assert {name.split()[2].rstrip(",") for name in counts} <= OUTCOMES


def test_a_foreign_byte_order_is_refused() -> None:
    """Clauses: S-4. The schema's byte order points at a number that does not say little."""
    at = 8 + int.from_bytes(SCHEMA_MESSAGE[8:12], "little")
    table = at + 0
    vtable = table - int.from_bytes(SCHEMA_MESSAGE[table : table + 4], "little", signed=True)
    header = int.from_bytes(SCHEMA_MESSAGE[vtable + 8 : vtable + 10], "little")
    schema = table + header
    schema += int.from_bytes(SCHEMA_MESSAGE[schema : schema + 4], "little")
    fields = schema - int.from_bytes(SCHEMA_MESSAGE[schema : schema + 4], "little", signed=True)
    swapped = bytearray(VALID[0].read())
    assert swapped[fields + 4 : fields + 6] == b"\0\0"  # absent, so little
    swapped[fields + 4 : fields + 6] = b"\x08\0"
    assert outcome(bytes(swapped)) == "schema"
