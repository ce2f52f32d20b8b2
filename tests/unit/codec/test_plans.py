"""Plans: the same values and bytes as the full path, and nothing accepted that it refuses."""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from mmformat.codec import decode, encode, plans, templates
from mmformat.codec.columns import TensorEntry, write_rows
from mmformat.codec.plans import forget_plans
from mmformat.codec.record_batch import read_batch_metadata
from mmformat.codec.schema import COLUMNS, SCHEMA_MESSAGE
from mmformat.codec.templates import forget_templates
from mmformat.codec.tensors import tensor_of
from mmformat.errors import DecodeError, EncodeError, LimitError, MMFormatError
from mmformat.model import DictionaryTensor, Limits, MultimodalDataItem, MultimodalInputs
from mmformat.testing import Vector, golden_vectors
from mmformat.testing.equality import twin_of
from tests.support.forgery import batch, item, message, tensor
from tests.support.sweep import LIMITS, flips

VALID = golden_vectors("valid")
INVALID = [*golden_vectors("invalid"), *golden_vectors("future")]
WARM = 3


def forget() -> None:
    forget_plans()
    forget_templates()


@pytest.fixture(autouse=True)
def no_plans() -> Iterator[None]:
    forget()
    yield
    forget()


def request(number: int = 0, *, items: int = 2, dictionary: bool = True) -> MultimodalInputs:
    """Return inputs whose structure does not depend on the number, except for lengths of hashes."""
    generator = torch.Generator().manual_seed(number)
    made = []
    for index in range(items):
        feature: Any = torch.randn(4, 24, generator=generator)
        if dictionary and index == 1:
            codes = torch.randint(0, 5, (3, 40), generator=generator, dtype=torch.uint8)
            feature = DictionaryTensor(codes, torch.randn(3, 5, generator=generator))
        made.append(
            MultimodalDataItem(
                modality="IMAGE",
                feature=feature,
                offsets=[(number, number + 3), (9, -1)],
                hash=7 * 10**17 + number if index != 2 else None,
                pad_value=number - 5,
                identity=f"{number:064x}",
                model_specific_data={
                    "grid": torch.tensor([[1, number, 8]]),
                    "small": np.array([number, 1], np.int16),
                    "list": [1, {"deep": (torch.ones(30) * number, "x")}],
                    "scale": 0.5,
                },
            )
        )
    return MultimodalInputs(
        items=made, request_data={"mask": np.arange(number, number + 100), "empty": torch.ones(0)}
    )


def planned() -> int:
    return len(plans._PLANS.values)


def outcome(data: Any, **options: Any) -> tuple[str, Any]:
    try:
        return "value", twin_of(decode(data, **options))
    except MMFormatError as error:
        return error.code, None


@pytest.mark.parametrize("items", [0, 1, 2, 3])
def test_other_values_of_one_structure_come_through_a_plan(items: int) -> None:
    for number in range(6):
        sent = request(number, items=items)
        found = encode(sent)
        decoded = decode(found)
        assert twin_of(decoded) == twin_of(decode(bytearray(bytes(found)))) == twin_of(sent)
        assert bytes(encode(request(number, items=items))) == bytes(found)
    assert planned() >= 1
    assert len(templates._TEMPLATES.values) >= 1


def test_a_template_writes_the_bytes_of_the_full_path() -> None:
    for _ in range(WARM):
        encode(request(1))
    for number in range(20):
        by_template = bytes(encode(request(number)))
        assert len(templates._TEMPLATES.values) > 0
        forget()
        assert bytes(encode(request(number))) == by_template
        for _ in range(WARM):
            encode(request(number))


@pytest.mark.parametrize("vector", VALID, ids=lambda vector: vector.name)
def test_a_valid_vector_gives_the_same_each_time(vector: Vector) -> None:
    data = vector.read()
    expected = vector.expected()
    for _ in range(WARM):
        for source in (data, bytearray(data)):
            assert twin_of(decode(source)) == expected
        inputs = decode(data)
        assert twin_of(decode(encode(inputs))) == expected


@pytest.mark.parametrize("vector", INVALID, ids=lambda vector: vector.name)
def test_an_invalid_vector_is_refused_after_every_valid_one(vector: Vector) -> None:
    """An attacker may send a good message of the same structure first."""
    limits = Limits(**vector.limits)
    cold = outcome(vector.read(), limits=limits)
    for valid in VALID:
        for _ in range(WARM):
            outcome(valid.read(), limits=limits)
    for _ in range(WARM):
        assert outcome(vector.read(), limits=limits) == cold
    assert cold[0] != "value"


def _warm_cases() -> list[bytes]:
    return [
        bytes(encode(request(3, items=1, dictionary=False))),
        bytes(encode(request(4, items=3))),
        message(
            batch(
                item(0, tensor(), hash="-5", identity="", offsets=[]),
                item(1, tensor(shape=(1,)), hash=None, identity="abc", pad_value=None),
                item(2, tensor(dtype="bool", shape=(3,)), hash="12", identity=None),
            )
        ),
    ]


@pytest.mark.parametrize("number", range(3))
def test_a_flip_gives_the_same_with_a_plan_as_without(number: int) -> None:
    """Every byte of metadata and columns, one bit each; the schema has its own test."""
    data = _warm_cases()[number]
    batch_at = len(SCHEMA_MESSAGE)
    metadata = read_batch_metadata(data[batch_at + 8 :])
    body_at = batch_at + 8 + int.from_bytes(data[batch_at + 4 : batch_at + 8], "little")
    column_end = body_at + metadata.buffers[2 * 48] + metadata.buffers[2 * 48 + 1] + 64
    cold = []
    for case in flips(data[batch_at:], column_end - batch_at, bits=1):
        forget()
        cold.append(outcome(SCHEMA_MESSAGE + case, limits=LIMITS))
    forget()
    for _ in range(WARM):
        decode(data, limits=LIMITS)
    assert planned() == 1
    for at, case in enumerate(flips(data[batch_at:], column_end - batch_at, bits=1)):
        found = outcome(SCHEMA_MESSAGE + case, limits=LIMITS)
        assert found == cold[at], (at, found[0], cold[at][0])
    assert "value" in {code for code, _ in cold}
    assert len({code for code, _ in cold}) > 8


def test_a_cut_or_longer_message_is_refused_with_a_plan() -> None:
    data = _warm_cases()[0]
    for _ in range(WARM):
        decode(data)
    for nbytes in range(len(data) - 200, len(data)):
        assert outcome(data[:nbytes])[0] == "truncated"
    assert outcome(data + b"\0")[0] == "trailing-bytes"
    frames = list(encode(request(3, items=1, dictionary=False)).frames)
    for _ in range(WARM):
        decode(frames)
    assert outcome([*frames, b"\0"])[0] == "trailing-bytes"
    assert outcome(frames[:-1])[0] == "truncated"


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"hash": "1x3"}, "hash"),
        ({"hash": "+12"}, "hash"),
        ({"hash": "1_2"}, "hash"),
        ({"identity": "ab\N{SNOWMAN}"}, "value"),
        ({"pad_value": -(2**63)}, "value"),
        ({"offsets": [(2**63 - 1, -(2**63))]}, "value"),
    ],
)
def test_what_varies_is_checked(changes: dict[str, Any], code: str) -> None:
    right = {
        "hash": "123",
        "identity": "abcde",
        "pad_value": 1,
        "offsets": [(1, 2)],
    }
    good = message(batch(item(0, tensor(), **right)))
    other = message(batch(item(0, tensor(), **{**right, **changes})))
    for _ in range(WARM):
        decode(good)
    assert len(good) == len(other)
    assert outcome(other)[0] == code
    forget()
    assert outcome(other)[0] == code


def test_text_that_is_not_utf8_is_refused_with_a_plan() -> None:
    good = message(batch(item(0, tensor(), hash="123", identity="abcde")))
    for _ in range(WARM):
        decode(good)
    assert outcome(good.replace(b"abcde", b"ab\xffde"))[0] == "utf8"


def test_the_first_bytes_of_a_tensor_are_compared_with_a_plan() -> None:
    good = bytes(encode(request(3, items=1, dictionary=False)))
    for _ in range(WARM):
        decode(good)
    at = good.index(request(3, items=1).items[0].feature.numpy().tobytes())
    changed = bytearray(good)
    changed[at] ^= 1
    assert outcome(changed)[0] == "view-prefix"


def test_codes_are_checked_with_a_plan() -> None:
    sent = request(3)
    for _ in range(WARM):
        decode(bytearray(bytes(encode(sent))))
    feature: Any = sent.items[1].feature
    feature.codes[2, 39] = 5
    assert outcome(bytearray(bytes(encode(sent))))[0] == "dictionary-code"


def test_limits_are_those_of_the_call() -> None:
    data = bytes(encode(request(1)))
    for _ in range(WARM):
        decode(data)
    for name, value in (("items", 1), ("tensor_nbytes", 10), ("attributes_depth", 1)):
        with pytest.raises(LimitError, match=name):
            decode(data, limits=Limits(**{name: value}))
    with pytest.raises(LimitError, match="message_nbytes"):
        decode(data, limits=Limits(message_nbytes=len(data) - 1))
    expanded = Limits(decompressed_nbytes=479)  # the dictionary tensor has 480 bytes
    for _ in range(WARM):
        with pytest.raises(LimitError, match="decompressed_nbytes"):
            decode(data, limits=expanded)
        decode(data, limits=expanded, expand=False)


def test_options_are_those_of_the_call() -> None:
    data = bytes(encode(request(1)))
    for _ in range(WARM):
        for library, kind in (("numpy", np.ndarray), ("torch", torch.Tensor)):
            out = decode(data, library=library)  # type: ignore[arg-type]
            assert type(out.items[0].feature) is type(out.request_data["mask"]) is kind
            assert type(out.items[1].feature) is kind
        assert type(decode(data, expand=False).items[1].feature) is DictionaryTensor


def test_values_are_made_anew_for_each_message() -> None:
    data = bytes(encode(request(1)))
    for _ in range(WARM):
        decode(data)
    first, second = decode(data), decode(data)
    first.items[0].model_specific_data["list"][1]["deep"] = "changed"
    first.items[0].model_specific_data["list"].append(3)
    first.request_data.clear()
    first.items[0].offsets.append((0, 0))  # type: ignore[union-attr]
    assert twin_of(second) == twin_of(decode(data)) == twin_of(request(1))


def test_attributes_that_differ_are_not_those_of_the_plan() -> None:
    for number in range(40):
        text = f"{number:05}"
        sent = MultimodalInputs(request_data={"a": text, "b": torch.ones(9)})
        assert decode(encode(sent)).request_data["a"] == text
    assert planned() <= 2


def test_values_that_compare_equal_are_told_apart() -> None:
    for value in (1, True, 1.0, 0, 0.0, -0.0, False, "1", b"1", None, (1,), [1]):
        for _ in range(WARM):
            (found,) = decode(
                encode(MultimodalInputs(request_data={"a": value}))
            ).request_data.values()
            assert type(found) is type(value)
            assert repr(found) == repr(value)


def test_inline_tensors_of_other_lengths_are_not_those_of_the_plan() -> None:
    for first, second in ((2, 3), (3, 2), (1, 4)) * WARM:
        sent = {"a": np.full(first, 7, np.uint8), "b": np.full(second, 9, np.uint8)}
        out = decode(encode(MultimodalInputs(request_data=sent))).request_data
        assert {k: v.tolist() for k, v in out.items()} == {k: v.tolist() for k, v in sent.items()}


@pytest.mark.parametrize(
    "wrong",
    [
        {"hash": True},
        {"hash": 10**1234},
        {"pad_value": 2**63},
        {"pad_value": 1.0},
        {"identity": b"x"},
        {"identity": "\ud800"},
        {"offsets": [(1, 2**63)]},
        {"offsets": [(True, 2)]},
        {"offsets": [(1,)]},
        {"model_specific_data": {"a": object()}},
        {"feature": 3},
    ],
    ids=str,
)
def test_a_value_that_cannot_travel_is_refused_with_a_plan(wrong: dict[str, Any]) -> None:
    def made(**changes: Any) -> MultimodalInputs:
        right: dict[str, Any] = {
            "feature": torch.ones(20),
            "hash": 1,
            "pad_value": 1,
            "identity": "x",
            "offsets": [(1, 2)],
        }
        return MultimodalInputs(
            items=[MultimodalDataItem(modality="IMAGE", **{**right, **changes})]
        )

    for _ in range(WARM):
        encode(made())
    with pytest.raises(EncodeError):
        encode(made(**wrong))


def test_the_caches_are_bounded() -> None:
    for rows in range(1, 600):
        data = bytes(encode(MultimodalInputs(request_data={"a": torch.ones(rows, 4)})))
        for _ in range(2):
            decode(data)
            encode(MultimodalInputs(request_data={"a": torch.ones(rows, 4)}))
    for cache in (plans._SKELETONS, plans._PLANS, templates._TEMPLATES):
        assert 0 < len(cache.values) <= plans.PLANS
        assert cache.nbytes <= plans.PLANS_NBYTES
    big = MultimodalInputs(request_data={"a": "x" * plans.PLANS_NBYTES})
    for _ in range(WARM):
        decode(encode(big))
    assert all(len(fixed) < plans.PLANS_NBYTES / 8 for _, fixed in plans._PLANS.values)


def test_threads_share_the_plans() -> None:
    errors: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for turn in range(60):
                sent = request(number + turn % 7, items=1 + turn % 3)
                assert twin_of(decode(bytes(encode(sent)))) == twin_of(sent)
                if turn % 20 == 0:
                    forget()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors


def test_the_segments_cover_every_column_once() -> None:
    structure, columns, _ = write_rows(
        [item(0, tensor(), tensor("b", shape=(1,)), hash="1"), item(1, identity="x")]
    )
    segments = plans.Segments(structure, columns)
    assert segments.fixed.size == segments.varying.size == segments.both.size == len(columns)
    assert segments.both.pack(*segments.both.unpack(columns)) == columns
    varying = {array.name for column in COLUMNS for array in column.walk() if array.varies}
    assert {name.removesuffix(".ends") for name in segments.slices} == varying
    values = segments.varying.unpack(columns)
    both = segments.both.unpack(columns)
    for name, where in segments.slices.items():
        assert values[where] == both[segments.places[name]]


def test_torch_tensors_never_write_to_bytes() -> None:
    """bytes objects are immutable: their elements are copied unless the caller says otherwise."""
    data = bytes(encode(request(2)))
    before = bytes(bytearray(data))
    for source in (data, [data[:700], data[700:]], list(map(bytes, encode(request(2)).frames))):
        for _ in range(WARM):
            out = decode(source)
            out.items[0].feature.fill_(9)
            out.items[0].model_specific_data["grid"].fill_(9)
            out.items[0].model_specific_data["list"][1]["deep"][0].fill_(9)
            assert data == before
            assert twin_of(decode(source)) == twin_of(request(2))
    array = decode(data).request_data["mask"]
    assert not array.flags.writeable
    shared = decode(data, writable=False).items[0].feature
    start = np.frombuffer(data, np.uint8).ctypes.data
    assert start < shared.data_ptr() < start + len(data)


def test_a_writable_buffer_is_not_copied() -> None:
    data = bytearray(bytes(encode(request(2))))
    for _ in range(WARM):
        out = decode(data)
        out.items[0].feature.fill_(9)
        at = data.index(struct.pack("<2f", 9, 9))
        assert at % 4 == 0
        data[:] = bytes(encode(request(2)))


def test_a_caller_may_make_the_tensors() -> None:
    """As on a device: the entries are those of the full path, the data views of the frames."""
    sent = request(2)
    data = bytearray(bytes(encode(sent)))
    for _ in range(WARM):
        decode(data)
    start = np.frombuffer(data, np.uint8).ctypes.data
    for frames in ([memoryview(data)], encode(sent).frames):
        made: list[Any] = []

        def make(entry: TensorEntry, is_torch: bool, path: str, made: list[Any] = made) -> Any:
            made.append((entry, is_torch, path))
            return tensor_of(entry, torch=is_torch, expand=True, path=path)

        inputs = plans.by_plan(frames, Limits(), make=make)
        assert inputs is not None
        assert twin_of(inputs) == twin_of(sent)
        assert len(made) == 10
        assert made[0][1:] == (True, "$.items[0].feature")
        chunk = made[0][0].data[0]
        if len(frames) == 1:
            at = np.frombuffer(chunk, np.uint8).ctypes.data - start
            assert 0 < at < len(data)


def test_errors_of_the_full_path_keep_their_path() -> None:
    good = message(batch(item(0, tensor(), hash="123")))
    for _ in range(WARM):
        decode(good)
    with pytest.raises(DecodeError, match=r"items\[0\].hash"):
        decode(message(batch(item(0, tensor(), hash="1 3"))))
