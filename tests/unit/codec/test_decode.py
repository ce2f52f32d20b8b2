"""decode: its sources, its arguments, and the order of the rows."""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mmformat.codec import decode, encode
from mmformat.errors import DecodeError, LimitError, ModelError, TruncatedError
from mmformat.model import Limits, MultimodalDataItem, MultimodalInputs
from mmformat.testing import assert_inputs_equal
from tests.support.forgery import batch, item, message, tensor


def sent() -> MultimodalInputs:
    items = [
        MultimodalDataItem(modality="IMAGE", feature=torch.randn(3, 40), hash=5),
        MultimodalDataItem(modality="AUDIO", feature=np.arange(50.0), identity="x"),
    ]
    return MultimodalInputs(items=items, request_data={"a": (1, None, torch.ones(2))})


def test_every_kind_of_source(tmp_path: Path) -> None:
    inputs = sent()
    encoded = encode(inputs)
    data = bytes(encoded)
    path = tmp_path / "x.arrows"
    path.write_bytes(data)
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    sources: list[Any] = [
        encoded,
        data,
        bytearray(data),
        memoryview(data),
        np.frombuffer(data, np.uint8),
        np.frombuffer(data, np.uint64),
        mapped,
        path,
        os.fspath(path),
        list(encoded.frames),
        tuple(map(bytes, encoded.frames)),
        [data[:100], b"", data[100:]],
        [data[at : at + 1] for at in range(len(data))],
    ]
    for source in sources:
        for _ in range(3):
            assert_inputs_equal(decode(source), inputs)


@pytest.mark.parametrize(
    "source", [3, None, object(), [3], "no such file", np.ones((4, 4)).T[::2], Path("/dev/null")]
)
def test_what_is_no_source_is_refused(source: Any) -> None:
    with pytest.raises(DecodeError) as caught:
        decode(source)
    assert caught.value.code == "source"


def test_nothing_is_truncated() -> None:
    for source in (b"", [], [b""], bytearray()):
        with pytest.raises(TruncatedError):
            decode(source)


@pytest.mark.parametrize(
    "arguments", [{"library": "jax"}, {"library": 3}, {"limits": 3}, {"limits": {"items": 3}}]
)
def test_arguments_are_checked(arguments: dict[str, Any]) -> None:
    data = bytes(encode(sent()))
    for _ in range(3):
        with pytest.raises(ModelError):
            decode(data, **arguments)
        decode(data)


@pytest.mark.parametrize(
    ("rows", "code"),
    [
        ([item(1)], "row-order"),
        ([item(0), item(0)], "row-order"),
        ([item(0, modality="REQUEST")], "row-order"),
        ([item(-1, modality="IMAGE")], "row-order"),
        ([item(-2)], "row-order"),
        ([item(-1, modality="REQUEST", format="normal")], "request-row"),
        ([item(0, modality="PICTURE")], "modality"),
        ([item(0, format="x")], "modality"),
        ([item(0, hash="1.5")], "hash"),
        ([item(0, tensor("a"), tensor("a"))], "tensor-names"),
        ([item(0, tensor("a"), attributes="{}")], "tensor-names"),
        ([item(0, attributes='{"feature":{"$tensor":"b"}}')], "tensor-names"),
        ([item(0, attributes=None)], "attributes"),
        ([item(0, attributes='{"other":1}')], "attributes-field"),
        ([item(0, attributes='{"feature":1}')], "attributes-field"),
    ],
)
def test_rows_that_contradict_the_format(rows: list[Any], code: str) -> None:
    for _ in range(3):
        with pytest.raises(DecodeError) as caught:
            decode(message(batch(*rows)))
        assert caught.value.code == code


def test_a_continuation_adds_tensors_and_nothing_else() -> None:
    first = item(0, attributes='{"feature":{"$ndarray":"feature"}}')
    for _ in range(3):
        data = message(batch(first), batch(item(0, tensor(), attributes=None, format=None)))
        assert decode(data).items[0].feature.shape == (2, 4)
    for wrong in (
        item(0, tensor(), format=None),
        item(0, tensor(), attributes=None),
        item(1, tensor(), attributes=None, format=None),
    ):
        with pytest.raises(DecodeError) as caught:
            decode(message(batch(first), batch(wrong)))
        assert caught.value.code == "continuation"


def test_bounds_name_what_was_asked() -> None:
    data = bytes(encode(sent()))
    for name, value in (("items", 1), ("tensors", 2), ("batches", 1), ("message_nbytes", 100)):
        if name == "batches":
            assert decode(data, limits=Limits(batches=1)).items
            continue
        with pytest.raises(LimitError, match=f"{name} of at most {value}"):
            decode(data, limits=Limits(**{name: value}))


def test_a_file_is_mapped_copy_on_write(tmp_path: Path) -> None:
    path = tmp_path / "x.arrows"
    encode(sent()).save(path)
    before = path.read_bytes()
    for _ in range(3):
        decode(path).items[0].feature.fill_(7)
    assert path.read_bytes() == before
    assert_inputs_equal(decode(path), decode(before))
