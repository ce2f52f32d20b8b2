"""Verify names every broken promise by its clause, also those that decoding does not look for."""

from __future__ import annotations

import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmformat.codec import decode, encode
from mmformat.codec.verify import verify
from mmformat.errors import DecodeError, MMFormatError
from mmformat.model import DictionaryTensor, Limits, MultimodalDataItem, MultimodalInputs
from tests.support.forgery import batch, item, message, metadata_of, patched, place_of, tensor
from tests.support.vectors import attacks

PLAIN = batch(item(0, tensor(shape=(5,))), item(1, tensor()))


def only(data: bytes) -> tuple[str, str, bool]:
    (finding,) = verify(data)
    return finding.clause, finding.code, finding.refused


def test_a_good_message_breaks_nothing() -> None:
    assert verify(message(PLAIN)) == []


def test_bytes_in_gaps_are_found() -> None:
    """Clauses: L-10. Between columns, behind a tensor, and behind the columns."""
    body_at = metadata_of(PLAIN)[1]
    first = place_of(PLAIN, 49)
    gaps = [sum(place_of(PLAIN, 4)), sum(place_of(PLAIN, 48)), sum(first), len(PLAIN) - 1]
    for at in gaps:
        assert PLAIN[at] == 0
        assert at >= body_at
        data = message(patched(PLAIN, at, b"\x01"))
        assert only(data) == ("L-10", "padding", False), at
        assert decode(data).items


def test_values_under_nulls_are_found() -> None:
    """Clauses: L-17. A pad value, an identity, a range that nobody sees."""
    rows = [item(0, pad_value=5), item(1)]
    data = batch(*rows)
    hidden = patched(data, 8, struct.pack("<q", 99), buffer=12)
    assert only(message(hidden)) == ("L-17", "null-value", False)
    shown = batch(item(0, identity="ab"), item(1))
    hidden = patched(shown, 0, b"\x02", buffer=13)  # the first row is null, the second is not
    assert only(message(hidden)) == ("L-17", "null-value", False)
    ranged = batch(item(0, offsets=[(1, 2)]), item(1, offsets=[]), item(2))
    hidden = patched(ranged, 0, b"\x06", buffer=16)
    assert only(message(hidden)) == ("L-17", "null-value", False)


@pytest.mark.parametrize(
    "attributes",
    [
        '{"model_specific_data": {"a":1}}',
        '{"model_specific_data":{"a":[1,\n2]}}',
        '{"model_specific_data":{"a":{"$bytes":"YR=="}}}',
        '{"model_specific_data":{"a":{"$scalar":["int8","AR=="]}}}',
        '{"model_specific_data":{"a":{"$int":"1"}}}',
        '{"model_specific_data":{"a":{"$int":"0036893488147419103232"}}}',
    ],
)
def test_another_spelling_of_json_is_found(attributes: str) -> None:
    """Clauses: A-6."""
    data = message(batch(item(0, attributes=attributes)))
    assert only(data) == ("A-6", "json", False)
    assert decode(data).items[0].model_specific_data


def test_white_space_in_text_is_none() -> None:
    data = encode(MultimodalInputs(request_data={"a b": ' \t"\\ " ', "c\\": "\\\\ "}))
    assert verify(data) == []


def test_another_spelling_of_a_hash_is_found() -> None:
    """Clauses: R-5."""
    data = message(batch(item(0, hash="-007")))
    assert only(data) == ("A-6", "json", False)
    assert decode(data).items[0].hash == -7


def test_bool_bytes_over_1_are_found() -> None:
    """Clauses: T-8."""
    data = message(
        batch(item(0, tensor(dtype="bool", shape=(20,), data=[bytes([0, 1] * 9 + [2, 0])])))
    )
    assert only(data) == ("T-8", "bool", False)


def test_codes_over_the_table_are_found_without_expanding() -> None:
    """Clauses: D-3."""
    codes = np.full((1, 100), 3, np.uint8)
    item = MultimodalDataItem(
        modality="IMAGE", feature=DictionaryTensor(codes, np.ones((1, 3), np.float32))
    )
    data = encode(MultimodalInputs(items=[item]))
    (finding,) = verify(data)
    assert finding == ("D-3", "dictionary-code", "$.items[0].feature", finding.message, True)
    assert "below 3, got 3" in finding.message
    with pytest.raises(DecodeError, match="below 3, got 3"):
        decode(data)


def test_what_arrow_finds_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clauses: L-18. Nothing is known that we accept and Arrow refuses; so it is made up here."""
    import pyarrow as pa

    def refuse(source: object) -> None:
        raise pa.ArrowInvalid("something new")

    monkeypatch.setattr("mmformat.codec.verify.validate_stream", refuse)
    assert only(message(PLAIN)) == ("L-18", "arrow", False)


def test_items_are_judged_apart() -> None:
    """One broken item does not hide another."""
    rows = [
        item(0, modality="SMELL"),
        item(1),
        item(2, hash="x"),
        item(3, tensor(dtype="float7", data=[bytes(32)])),
    ]
    found = verify(message(batch(*rows)))
    assert [(f.clause, f.path) for f in found] == [
        ("R-4", "$.items[0]"),
        ("R-5", "$.items[2].hash"),
        ("T-2", "$.items[3].feature"),
    ]


@pytest.mark.parametrize("attack", list(attacks()), ids=lambda attack: attack.name)
def test_verify_says_what_decode_does(attack: Any) -> None:
    """Also for the attacks that are no golden vectors."""
    if attack.name == "tensor-again":  # holds bfloat16
        pytest.importorskip("ml_dtypes")
    limits = Limits(**attack.limits)
    first = verify(attack.data, limits=limits)[0]
    with pytest.raises(MMFormatError) as caught:
        decode(attack.data, limits=limits)
    assert (first.code, first.refused) == (caught.value.code, True)
    assert caught.value.code == attack.code
    assert type(caught.value).__name__ == attack.error


def test_what_cannot_be_opened_is_no_finding(tmp_path: Path) -> None:
    for source in (tmp_path / "none.arrows", 7, [1, 2], np.zeros((4, 4))[:, 1]):
        with pytest.raises(DecodeError) as caught:
            verify(source)
        assert caught.value.code == "source"


_BASE = """
import sys


class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "ml_dtypes", "PIL", "av", "rich", "soundfile"):
            raise ModuleNotFoundError(name, name=name)


sys.meta_path.insert(0, Absent())
from mmformat.codec.verify import verify
from mmformat.model import Limits
from mmformat.testing import golden_vectors

for vector in golden_vectors():
    found = verify(vector.path, limits=Limits(**vector.limits))
    assert bool(found) == (vector.kind != "valid"), (vector.name, found)
"""


def test_a_base_install_verifies_every_vector() -> None:
    """Without torch and ml_dtypes; scalars of bfloat16 and float8 are checked, not made."""
    done = subprocess.run(
        [sys.executable, "-c", _BASE], capture_output=True, text=True, check=False, timeout=100
    )
    assert done.returncode == 0, done.stderr


def test_scalar_keys_that_are_equal_are_found_as_decode_finds_them() -> None:
    """Found by the fuzzer: two dtypes, one number, so one key twice."""
    keys = '[{"$scalar":["int8","AQ=="]},1],[{"$scalar":["int16","AQA="]},2]'
    row = item(0, attributes='{"model_specific_data":{"a":{"$dict":[' + keys + "]}}}")
    data = message(batch(row))
    with pytest.raises(DecodeError) as caught:
        decode(data)
    assert [finding.code for finding in verify(data)] == [caught.value.code] == ["attributes-value"]
