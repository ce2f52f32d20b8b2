"""Compressed tensors: their chunks, the memory they come back to, what "auto" chooses and says."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

import mmformat as mm
from mmformat._arrow import core_count
from mmformat.codec import decode, encode
from mmformat.codec.chained_buffer import open_chained
from mmformat.codec.compression import PACKED_NBYTES, Choice, choices_of, explained
from mmformat.codec.describe import describe
from mmformat.codec.parallel import on_all_cores
from mmformat.codec.schema import COMPRESSION_KEY, SCHEMA
from mmformat.codec.stream import read_batches
from mmformat.codec.verify import verify
from mmformat.errors import MMFormatError, ModelError
from mmformat.model import Compression, DictionaryTensor, Limits, MultimodalInputs
from mmformat.testing import assert_inputs_equal
from tests.support.forgery import batch, item, message, schema_message, tensor

RANDOM = np.random.default_rng(11)
ALL = {codec: Compression(codec=codec, threshold_nbytes=100) for codec in ("lz4", "zstd")}
each_codec = pytest.mark.parametrize("codec", list(ALL))


def pixels(nbytes: int) -> np.ndarray[Any, Any]:
    """Bytes of float32 that shrink, as those of normalized pixels do."""
    codes = np.repeat(RANDOM.integers(0, 256, -(-nbytes // 32), np.uint8), 8)
    return (codes.astype(np.float32) / 255 - 0.5)[: nbytes // 4]


def noise(nbytes: int) -> np.ndarray[Any, Any]:
    return RANDOM.integers(0, 256, nbytes, np.uint8)


def sent(value: Any) -> MultimodalInputs:
    return MultimodalInputs(request_data={"x": value})


@each_codec
@pytest.mark.parametrize("extra", [0, 4, 12, 16, PACKED_NBYTES - 4])
def test_a_large_tensor_travels_in_chunks_of_a_mebibyte(codec: str, extra: int) -> None:
    """Clauses: Z-4, V-4. The last takes a rest that would be an inline view."""
    value = pixels(3 * PACKED_NBYTES + extra)
    made = encode(sent(value), ALL[codec])
    (told,) = describe(made).tensors
    sizes = [chunk.nbytes for chunk in told.chunks]
    assert told.codec == codec
    assert sum(sizes) == value.nbytes
    assert all(size == PACKED_NBYTES for size in sizes[:-1])
    assert 12 < sizes[-1] <= PACKED_NBYTES + 12
    assert verify(made) == []
    for source in (made, bytes(made)):
        out = decode(source).request_data["x"]
        assert out.tobytes() == value.tobytes()
        assert out.ctypes.data % 64 == 0


@each_codec
def test_every_kind_of_tensor_comes_back(codec: str) -> None:
    codes = np.repeat(RANDOM.integers(0, 9, 300_000, np.uint8), 8)
    table = RANDOM.standard_normal((1, 9)).astype(np.float32)
    values = {
        "torch": torch.from_numpy(pixels(2_500_000)),
        "bfloat16": torch.from_numpy(pixels(5_000_000)).to(torch.bfloat16),
        "dictionary": DictionaryTensor(codes.reshape(1, -1), table, axis=0),
        "noise": noise(2_500_001),
        "small": np.zeros(200, np.int64),
        "tiny": np.zeros(2, np.int8),
    }
    inputs = MultimodalInputs(request_data=values)
    made = encode(inputs, ALL[codec])
    assert describe(made).batches[1].codec == codec
    assert_inputs_equal(decode(made), inputs)
    assert_inputs_equal(decode(bytes(made), expand=False), inputs)
    assert verify(made) == []


@each_codec
def test_a_chunk_that_does_not_shrink_is_sent_from_where_it_lies(codec: str) -> None:
    """Clauses: Z-2, Z-4. Behind a length of -1, and not copied."""
    value = np.concatenate([noise(PACKED_NBYTES), np.zeros(PACKED_NBYTES, np.uint8)])
    made = encode(sent(value), ALL[codec])
    stored, packed = describe(made).tensors[0].chunks
    assert stored.stored_nbytes == PACKED_NBYTES + 8
    assert packed.stored_nbytes < PACKED_NBYTES // 100
    assert value.ctypes.data in [pa.py_buffer(frame).address for frame in made.frames]
    assert decode(made).request_data["x"].tobytes() == value.tobytes()


def test_noise_costs_nothing_on_the_wire() -> None:
    value = noise(3 * PACKED_NBYTES)
    assert encode(sent(value), ALL["lz4"]).nbytes < encode(sent(value)).nbytes + 4096


@each_codec
def test_a_caller_may_give_the_memory(codec: str) -> None:
    """Each compressed tensor is written there, once, its chunks behind each other."""
    values = {"a": pixels(3_000_000), "b": noise(2_000_000)}
    made = encode(MultimodalInputs(request_data=values), ALL[codec])
    given: list[np.ndarray[Any, Any]] = []

    def allocate(nbytes: int) -> np.ndarray[Any, Any]:
        given.append(np.zeros(nbytes, np.uint8))
        return given[-1]

    out = decode(bytes(made), allocate=allocate).request_data
    assert [memory.tobytes() for memory in given] == [value.tobytes() for value in values.values()]
    assert [out[name].ctypes.data for name in values] == [memory.ctypes.data for memory in given]


def test_no_memory_is_taken_for_a_tensor_of_another_shape() -> None:
    """Clauses: Z-3. Zeros that keep all promises but one: the shape wants fewer bytes."""
    zeros = [bytes(2**20) for _ in range(8)]
    entry = tensor(dtype="uint8", shape=(2**23 - 1,), data=zeros)
    plain = batch(item(0, attributes={"feature": {"$ndarray": "feature"}}))
    data = message(plain, batch(item(0, entry, attributes=None, format=None), compressed=True))

    def allocate(nbytes: int) -> np.ndarray[Any, Any]:
        raise AssertionError(f"{nbytes} bytes were asked for")

    with pytest.raises(MMFormatError) as caught:
        list(read_batches(open_chained(data), Limits(), allocate=allocate))
    assert caught.value.code == "shape-bytes"


@each_codec
def test_one_bad_chunk_among_many(codec: str) -> None:
    """Clauses: Z-2, E-1. Found by whichever thread meets it."""
    made = encode(sent(pixels(6 * PACKED_NBYTES)), ALL[codec])
    data = bytearray(bytes(made))
    chunk = describe(made).tensors[0].chunks[4]
    assert chunk.at is not None
    middle = chunk.at + chunk.stored_nbytes // 2
    data[middle : middle + 64] = bytes(64)
    try:
        assert decode(data).request_data["x"].tobytes() != b""  # other values are no other format
    except MMFormatError as error:
        assert error.code == "compression"
    data[chunk.at + 8 : chunk.at + 12] = bytes(4)
    with pytest.raises(MMFormatError) as caught:
        decode(data)
    assert caught.value.code == "compression"
    assert "$" in str(caught.value)


def test_auto_tells_what_it_chose() -> None:
    """Clauses: Z-5. What shrinks and what does not; the same message every time."""
    inputs = MultimodalInputs(request_data={"a": pixels(2**21), "b": noise(2**21), "c": noise(9)})
    options = Compression(codec="auto", threshold_nbytes=2**20)
    made = encode(inputs, options)
    told = describe(made)
    assert [(each.item, each.name, each.codec) for each in told.choices] == [
        (-1, "request_data['a']", "lz4"),
        (-1, "request_data['b']", "none"),
    ]
    assert {tensor.name[14]: tensor.codec for tensor in told.tensors} == {
        "a": "lz4",
        "b": None,
        "c": None,
    }
    assert "a sample shrinks" in told.choices[0].reason
    assert bytes(encode(inputs, options)) == bytes(made)
    assert verify(made) == []
    assert_inputs_equal(decode(made), inputs)


def test_auto_weighs_the_link() -> None:
    """Pixels cross a slow one as LZ4, and one that no codec keeps up with as they are."""
    inputs = sent(pixels(2**22))
    for link_gbit_s, codec in ((0.001, "lz4"), (1e6, "none")):
        options = Compression(codec="auto", threshold_nbytes=0, link_gbit_s=link_gbit_s)
        made = encode(inputs, options)
        (choice,) = describe(made).choices
        assert choice.codec == codec
        assert choice.link_gbit_s == link_gbit_s
        assert choice.plain_ms is not None
        assert choice.lz4_ms is not None
        assert (choice.lz4_ms < choice.plain_ms) == (codec == "lz4")
        assert f"over {link_gbit_s:g} Gbit/s" in choice.reason
        assert_inputs_equal(decode(made), inputs)


@pytest.mark.parametrize(
    "text",
    [
        b"\xff\xfe",
        b"{}",
        b"[1]",
        b'{"tensors": 3}',
        b'{"tensors": [{}]}',
        b'{"tensors": [{"item": "0", "name": "x", "codec": "lz4", "ratio": 1}]}',
        b'{"tensors": [{"item": 0, "name": 7, "codec": "lz4", "ratio": 1}]}',
        b'{"tensors": [{"item": 0, "name": "x", "codec": "<b>", "ratio": 1}]}',
        b'{"tensors": [{"item": 0, "name": "x", "codec": "lz4", "ratio": "1"}]}',
        b'{"tensors": [{"item": 0, "name": "x", "codec": "lz4", "ratio": 1, "more": 2}]}',
        b'{"tensors": [{"item": 0, "name": "x", "codec": "lz4", "ratio": null}]}',
        b'{"tensors": [{"item": 0, "name": "x", "codec": "lz4", "ratio": NaN}]}',
        b'{"tensors": [{"item": 0, "name": "x", "codec": "lz4", "ratio": 1' + b"0" * 400 + b"}]}",
        b"[" * 100_000,
    ],
)
def test_a_message_says_there_what_it_likes(text: bytes) -> None:
    """Clauses: Z-5, S-5. Nothing is refused for it, and what is no choice is not shown."""
    schema = SCHEMA.with_metadata({**SCHEMA.metadata, COMPRESSION_KEY: text})
    data = message(batch(item(0, tensor())), schema=schema_message(schema))
    assert decode(data).items[0].feature.shape == (2, 4)
    assert describe(data).choices == ()
    assert choices_of(text) == ()


def test_choices_come_back() -> None:
    choices = (
        Choice(item=0, name="a", codec="lz4", ratio=3.7),
        Choice(item=-1, name="b", codec="none", ratio=1.0, link_gbit_s=10, plain_ms=1, lz4_ms=2.5),
    )
    assert choices_of(explained(choices)) == choices


@pytest.mark.parametrize(
    "fields",
    [
        {"codec": "gzip"},
        {"codec": "auto", "link_gbit_s": 0},
        {"codec": "auto", "link_gbit_s": float("inf")},
        {"codec": "auto", "link_gbit_s": float("nan")},
        {"codec": "auto", "link_gbit_s": True},
        {"codec": "auto", "link_gbit_s": "10"},
        {"codec": "lz4", "link_gbit_s": 10},
        {"codec": "lz4", "threshold_nbytes": -1},
    ],
)
def test_options_that_are_none(fields: dict[str, Any]) -> None:
    with pytest.raises(ModelError):
        mm.Compression(**fields)


def test_work_comes_back_in_order_from_every_core() -> None:
    names: set[str] = set()
    together = threading.Barrier(core_count(), timeout=30)

    def work(part: int) -> int:
        if part < core_count():
            together.wait()
        names.add(threading.current_thread().name)
        return part * part

    before = threading.active_count()
    assert on_all_cores(work, range(100)) == [part * part for part in range(100)]
    assert len(names) == core_count()
    assert threading.active_count() == before


def test_an_error_of_any_core_comes_out_and_ends_the_work() -> None:
    done: list[int] = []

    def work(part: int) -> None:
        if part == 5:
            raise ModelError("five")
        done.append(part)

    with pytest.raises(ModelError, match="five"):
        on_all_cores(work, range(100_000))
    assert len(done) < 100_000 - 1


@pytest.mark.parametrize("started", [0, 1])
def test_where_no_thread_can_start_the_caller_does_all(
    monkeypatch: pytest.MonkeyPatch, started: int
) -> None:
    """A container's bound on processes, or an interpreter that is ending."""
    start = threading.Thread.start
    left = [started]

    def few(thread: threading.Thread) -> None:
        if not left[0]:
            raise RuntimeError("can't start new thread")
        left[0] -= 1
        start(thread)

    monkeypatch.setattr("mmformat.codec.parallel.core_count", lambda: 4)
    monkeypatch.setattr(threading.Thread, "start", few)
    assert on_all_cores(lambda part: part * part, range(100)) == [part**2 for part in range(100)]


@each_codec
@pytest.mark.parametrize("kind", ["read-only", "short"])
def test_memory_that_cannot_be_written_is_refused_before_a_library_is_given_its_address(
    codec: str, kind: str
) -> None:
    made = bytes(encode(sent(pixels(3 * PACKED_NBYTES)), ALL[codec]))
    given: list[bytes] = []

    def allocate(nbytes: int) -> bytes | bytearray:
        given.append(bytes(nbytes))
        return given[-1] if kind == "read-only" else bytearray(nbytes - 1)

    with pytest.raises(ModelError) as caught:
        decode(made, allocate=allocate)
    assert caught.value.path == "$.allocate"
    assert not any(given[-1])
