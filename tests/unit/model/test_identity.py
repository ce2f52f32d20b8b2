"""Different content is known by different numbers, equal content by equal ones, wherever it is."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import struct
from typing import Any

import numpy as np
import pytest
import torch
from blake3 import blake3

from mmformat.errors import ModelError
from mmformat.model import (
    DictionaryTensor,
    InputFormat,
    Modality,
    MultimodalDataItem,
    MultimodalInputs,
    Source,
)
from mmformat.model.identity import (
    content_hash_of,
    hash_of,
    hash_of_identity,
    identity_of,
    pad_value_of_hash,
    pad_values_of_hash,
)


def _item(feature: Any = None, **fields: Any) -> MultimodalDataItem:
    return MultimodalDataItem(modality=Modality.IMAGE, feature=feature, **fields)


def _of(feature: Any = None, **fields: Any) -> str:
    return identity_of(_item(feature, **fields))


BYTES = np.arange(24, dtype=np.uint8)
TABLE = np.arange(256, dtype=np.float32).reshape(1, 256)

# Every pair must differ, though many share each byte of their tensors.
DIFFERENT: dict[str, Any] = {
    "nothing": {},
    "a tensor": {"feature": BYTES},
    "reshaped": {"feature": BYTES.reshape(4, 6)},
    "reshaped otherwise": {"feature": BYTES.reshape(6, 4)},
    "recast": {"feature": BYTES.view(np.int8)},
    "of another width": {"feature": BYTES.view(np.float32)},
    "one byte changed": {"feature": BYTES ^ (np.arange(24) == 17).astype(np.uint8)},
    "a list of one": {"feature": [BYTES]},
    "a tuple of one": {"feature": (BYTES,)},
    "a list of two": {"feature": [BYTES[:12], BYTES[12:]]},
    "a list of two, cut elsewhere": {"feature": [BYTES[:11], BYTES[11:]]},
    "nested on the left": {"feature": [[BYTES[:12], BYTES[12:]], []]},
    "nested on the right": {"feature": [[BYTES[:12]], [BYTES[12:]]]},
    "as embeddings": {"precomputed_embeddings": BYTES},
    "as model data": {"model_specific_data": {"feature": BYTES}},
    "as model data by another name": {"model_specific_data": {"features": BYTES}},
    "model data nested": {"model_specific_data": {"feature": {"feature": BYTES}}},
    "a dictionary": {"feature": DictionaryTensor(BYTES, TABLE)},
    "a dictionary of another table": {"feature": DictionaryTensor(BYTES, TABLE + 1)},
    "a dictionary of another dtype": {"feature": DictionaryTensor(BYTES, TABLE).to("float16")},
    "a dictionary, repeated": {"feature": DictionaryTensor(BYTES, TABLE, repeat=2)},
    "a dictionary, repeated elsewhere": {
        "feature": DictionaryTensor(BYTES, TABLE, repeat=2, repeat_axis=1)
    },
    "a dictionary of another shape": {"feature": DictionaryTensor(BYTES, TABLE, shape=(4, 6))},
    "what a dictionary expands to": {"feature": DictionaryTensor(BYTES, TABLE).expand()},
    "its parts": {"feature": [BYTES, TABLE]},
    **{
        f"the value {value!r}": {"model_specific_data": {"x": value}}
        for value in (0, 1, False, True, 0.0, -0.0, 1.0, "1", b"1", None, "", b"", [], (), {}, "é")
    },
    "a scalar of numpy": {"model_specific_data": {"x": np.float32(1)}},
    "ints that join": {"model_specific_data": {"x": [1, 23]}},
    "ints that join otherwise": {"model_specific_data": {"x": [12, 3]}},
    "a key of another kind": {"model_specific_data": {"x": {1: 2}}},
    "a key that is text": {"model_specific_data": {"x": {"1": 2}}},
}


def test_different_content_has_different_identities() -> None:
    found = {name: _of(**fields) for name, fields in DIFFERENT.items()}
    for (one, first), (other, second) in itertools.combinations(found.items(), 2):
        assert first != second, f"{one} and {other} have one identity"
    assert all(len(identity) == 64 for identity in found.values())


def test_the_modality_counts() -> None:
    video = MultimodalDataItem(modality=Modality.VIDEO, feature=BYTES)
    assert identity_of(video) != _of(BYTES)


def test_equal_content_has_one_identity_wherever_it_lies() -> None:
    pixels = np.arange(60, dtype=np.float32).reshape(3, 4, 5)
    reference = _of(pixels, model_specific_data={"a": 1, "b": pixels[0]})
    torch_pixels = torch.from_numpy(pixels.copy())
    wide = np.zeros((3, 8, 5), np.float32)
    wide[:, ::2] = pixels
    for feature in (
        torch_pixels,
        wide[:, ::2],
        torch_pixels.permute(2, 1, 0).contiguous().permute(2, 1, 0),
    ):
        assert _of(feature, model_specific_data={"b": torch_pixels[0], "a": 1}) == reference


def test_where_an_item_stands_does_not_count() -> None:
    reference = _of(BYTES)
    assert _of(BYTES, offsets=[(3, 9)]) == reference
    assert _of(BYTES, hash=7, pad_value=9) == reference
    assert _of(BYTES, format=InputFormat.PROCESSOR_OUTPUT) == reference


def test_what_came_with_an_item_is_kept() -> None:
    assert _of(BYTES, identity="theirs") == "theirs"
    assert hash_of(_item(BYTES, hash=-5)) == -5
    assert hash_of(_item(BYTES, identity="00000000000000ff")) == 255
    assert hash_of(_item(BYTES)) == int(_of(BYTES)[:16], 16)


def test_an_identity_of_another_library_has_a_hash_too() -> None:
    for text in ("", "theirs", "xyz" * 30, "0x00000000000000ff"):
        expected = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
        assert hash_of_identity(text) == expected


def test_the_frames_are_those_that_the_docs_name() -> None:
    # Written out by hand: another language must be able to make the same digest.
    u64 = struct.Struct("<Q").pack
    feature = np.array([[1.5, -2.0]], np.float32)
    expected = blake3(b"mmformat-identity-v1\0")
    expected.update(b"S" + u64(5) + b"IMAGE")
    expected.update(b"T" + u64(7) + b"float32" + u64(2) + u64(1) + u64(2) + u64(8))
    expected.update(struct.pack("<2f", 1.5, -2.0))
    expected.update(b"N" + u64(0))
    expected.update(b"M" + u64(2))
    expected.update(b"S" + u64(1) + b"a" + b"I" + u64(2) + b"-3")
    expected.update(b"S" + u64(1) + b"b" + b"L" + u64(2) + b"?" + u64(1) + b"\1")
    expected.update(b"F" + u64(8) + struct.pack("<d", 0.5))
    item = _item(feature, model_specific_data={"b": [True, 0.5], "a": -3})
    assert identity_of(item) == expected.hexdigest()


def test_a_dictionary_is_framed_with_its_layout() -> None:
    u64 = struct.Struct("<Q").pack
    codes, table = np.array([1, 0], np.uint8), np.array([[2.0, 3.0]], np.float32)
    expected = blake3(b"mmformat-identity-v1\0" + b"S" + u64(5) + b"IMAGE")
    expected.update(b"D" + u64(0) + u64(1) + u64(2) + u64(2) + u64(2) + u64(2))
    expected.update(b"T" + u64(5) + b"uint8" + u64(1) + u64(2) + u64(2) + b"\1\0")
    expected.update(b"T" + u64(7) + b"float32" + u64(2) + u64(1) + u64(2) + u64(8))
    expected.update(table.tobytes() + b"N" + u64(0) + b"M" + u64(0))
    tensor = DictionaryTensor(codes, table, repeat_axis=1, repeat=2)
    assert identity_of(_item(tensor)) == expected.hexdigest()


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"feature": Source(b"x")}, "$.feature"),
        ({"feature": [BYTES, Source(b"x")]}, "$.feature[1]"),
        ({"model_specific_data": {"f": [object()]}}, "$.model_specific_data['f'][0]"),
        ({"feature": torch.zeros(2, device="meta")}, "$.feature"),
    ],
)
def test_what_no_message_carries_has_no_identity(fields: dict[str, Any], path: str) -> None:
    with pytest.raises(ModelError) as caught:
        _of(**fields)
    assert caught.value.path == path


def test_a_frozen_item_of_materialized_inputs_can_be_asked() -> None:
    item = _item(BYTES)
    item.freeze()
    inputs = MultimodalInputs(items=[item])
    assert identity_of(inputs.items[0]) == _of(BYTES)
    assert identity_of(dataclasses.replace(item, hash=4)) == _of(BYTES)


# -------------------------------------------------------------- numbers that SGLang itself made
# From items of SGLang 0.5.5's and 0.5.23's own classes: hash, pad value, and the four wide values.

OLD_PADS = [
    (13663090697864622404, 1009398084),
    (18446744073709551615, 1073741823),
    (9223372036854775808, 0),
    (12345, 12345),
    (-1471806798142129623, 448510505),
]
WIDE_PADS = {
    13663090697864622404: (
        4532438633432776408,
        1230221697171394384,
        1948231423573147762,
        2018939609483412375,
    ),
}
WIDE_FIRST = [
    (18446744073709551615, 4240376728074018288),
    (9223372036854775808, 4042404524077239915),
    (0, 3397727234245131147),
    (12345, 3885543670547236207),
    (7773145449007891814, 5671234908437320),
]


@pytest.mark.parametrize(("hash_value", "pad_value"), OLD_PADS)
def test_the_old_pad_value(hash_value: int, pad_value: int) -> None:
    assert pad_values_of_hash(hash_value, rule="sglang-0.5.5") == (pad_value,)
    assert pad_value_of_hash(hash_value, rule="sglang-0.5.5") == pad_value


@pytest.mark.parametrize(("hash_value", "first"), WIDE_FIRST)
def test_the_wide_pad_values(hash_value: int, first: int) -> None:
    values = pad_values_of_hash(hash_value)
    assert len(values) == 4
    assert values[0] == pad_value_of_hash(hash_value, rule="sglang-0.5.23") == first
    assert all(1_000_000 <= value < 2**62 + 1_000_000 for value in values)


def test_all_four_wide_values() -> None:
    for hash_value, expected in WIDE_PADS.items():
        assert pad_values_of_hash(hash_value) == expected


def test_the_wide_values_of_an_identity() -> None:
    of_text = pad_values_of_hash(1, identity="abc")
    assert of_text == pad_values_of_hash(2, identity=b"abc")
    assert of_text != pad_values_of_hash(1)
    assert pad_values_of_hash(0x6162630000000000, identity=None) == pad_values_of_hash(
        0, identity=b"abc\0\0\0\0\0"
    )


def test_a_hash_that_the_wide_rule_cannot_hold_is_refused() -> None:
    for value in (-1, 2**64):
        with pytest.raises(ModelError, match="64 bits"):
            pad_values_of_hash(value)
    with pytest.raises(ModelError, match="rule"):
        pad_values_of_hash(1, rule="sglang-9")  # type: ignore[arg-type]


def test_the_content_hash_is_sha256_of_the_bytes() -> None:
    pixels = np.arange(8, dtype=np.float32)
    expected = int.from_bytes(hashlib.sha256(pixels.tobytes()).digest()[:8], "big")
    for rule in ("sglang-0.5.5", "sglang-0.5.23"):
        for feature in (pixels, torch.from_numpy(pixels), [pixels[:3], pixels[3:]]):
            assert content_hash_of(feature, rule=rule) == expected
    codes = DictionaryTensor(np.arange(8, dtype=np.uint8), TABLE)
    assert content_hash_of(codes) == expected, "an engine never saw the codes"


def test_the_versions_hash_bfloat16_differently() -> None:
    pixels = torch.arange(8).to(torch.bfloat16)
    old = hashlib.sha256(pixels.float().numpy().tobytes()).digest()
    new = hashlib.sha256(pixels.view(torch.uint8).numpy().tobytes()).digest()
    assert content_hash_of(pixels, rule="sglang-0.5.5") == int.from_bytes(old[:8], "big")
    assert content_hash_of(pixels, rule="sglang-0.5.23") == int.from_bytes(new[:8], "big")
    with pytest.raises(ModelError):
        content_hash_of(pixels, rule="vllm")  # type: ignore[arg-type]
    with pytest.raises(ModelError):
        content_hash_of(["no tensor"])
