"""Each attack on the reader is refused by its code, takes no memory, and runs nothing."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import threading
import tracemalloc
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import mmformat as mm
from mmformat.codec import decode, encode
from mmformat.codec.schema import END_OF_STREAM, SCHEMA_MESSAGE
from mmformat.codec.verify import CLAUSES
from mmformat.errors import LimitError, MMFormatError, SchemaError
from mmformat.model import Limits, MultimodalDataItem, MultimodalInputs
from tests.support.attacks import Attack, future
from tests.support.forgery import batch, item, message, metadata_of, tensor, with_metadata
from tests.support.vectors import attacks

ATTACKS = [*attacks(), *future()]
SLACK = 2 * 2**20


def _peaks(data: bytes, limits: Limits) -> tuple[int, int, str]:
    """Bytes that Python and Arrow took at most while a message was decoded, and the outcome."""
    pool = pa.default_memory_pool()
    before = pool.bytes_allocated()
    tracemalloc.start()
    try:
        decode(data, limits=limits)
        code = "value"
    except MMFormatError as error:
        code = error.code
    finally:
        python = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return python, pool.bytes_allocated() - before, code


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_an_attack_takes_no_memory(attack: Attack) -> None:
    """Clauses: E-3, Z-3, B-1. Whatever sizes it announces."""
    limits = Limits(**attack.limits)
    with pytest.raises(MMFormatError):
        decode(attack.data, limits=limits)  # modules are imported on the way
    python, arrow, code = _peaks(attack.data, limits)
    assert code == attack.code
    assert python < SLACK + 4 * len(attack.data)
    assert arrow <= 0


def bomb(nbytes: int) -> bytes:
    """Zeros that LZ4 makes 250 times smaller, in a message that keeps every promise."""
    zeros = tensor(dtype="uint8", shape=(nbytes,), data=[bytes(nbytes)])
    plain = batch(item(0, attributes={"feature": {"$ndarray": "feature"}}))
    return message(plain, batch(item(0, zeros, attributes=None, format=None), compressed=True))


def test_a_bomb_is_refused_before_it_is_decompressed() -> None:
    """Clauses: Z-3, B-1. 64 MiB of zeros in 270 KB: readable, unless the limits say no."""
    data = bomb(64 * 2**20)
    assert len(data) < 300_000
    assert decode(data).items[0].feature.nbytes == 64 * 2**20
    pool = pa.default_memory_pool()
    for limits in (Limits(decompressed_nbytes=2**20), Limits(tensor_nbytes=2**20)):
        before, peak = pool.bytes_allocated(), pool.max_memory()
        with pytest.raises(LimitError):
            decode(data, limits=limits)
        if limits.decompressed_nbytes == 2**20:
            assert pool.max_memory() == peak
        assert pool.bytes_allocated() == before


def test_columns_that_grow_are_refused_before_they_are_decompressed() -> None:
    """A million rows' worth of zeros: Python objects take ten times what columns do."""
    rows = 200_000
    row = item(0, tensor(shape=(1,) * 1, data=[bytes(4)]), attributes=None, format=None)
    many = row.tensors * rows
    row.tensors = many
    packed = batch(row, compressed=True)
    data = message(batch(item(0)), packed)
    with pytest.raises(LimitError, match="tensors"):
        decode(data)
    with pytest.raises(LimitError, match="metadata_nbytes"):
        decode(data, limits=Limits(tensors=10**9, metadata_nbytes=2**20))


def test_attributes_cannot_ask_for_much_time() -> None:
    """Numbers of a million digits take quadratic time in Python; they are refused unread."""
    for text in ("9" * 10**6, "-" + "1" * 10**6, "1" * 10**6 + ".0", "1e" + "9" * 10**6):
        data = message(batch(item(0, attributes='{"model_specific_data":{"a":' + text + "}}")))
        with pytest.raises(MMFormatError) as caught:
            decode(data)
        assert caught.value.code in ("attributes", "attributes-value")


class Registered(pa.ExtensionType):
    """A type as other libraries register them; some of them unpickle what they are given."""

    called = 0

    def __init__(self) -> None:
        super().__init__(pa.string(), "some.python")

    def __arrow_ext_serialize__(self) -> bytes:
        return b"code"

    @classmethod
    def __arrow_ext_deserialize__(cls, storage_type: pa.DataType, serialized: bytes) -> Registered:
        cls.called += 1
        return cls()


def test_extension_types_of_other_libraries_are_not_called() -> None:
    """Clauses: X-1, S-1."""
    data = next(attack.data for attack in ATTACKS if attack.name == "column-extension")
    pa.register_extension_type(Registered())
    try:
        Registered.called = 0
        pa.ipc.open_stream(data)
        assert Registered.called == 1  # so a reader that leaves it to Arrow runs their code
        Registered.called = 0
        with pytest.raises(SchemaError, match="extension"):
            decode(data)
        assert Registered.called == 0
    finally:
        pa.unregister_extension_type("some.python")


def test_depth_beyond_pythons_own_is_refused() -> None:
    """Clauses: B-1. Also where the caller's limit allows more than the interpreter can."""
    for depth in (300, 600, 950, 5000):
        text = '{"model_specific_data":{"a":' + '{"b":[' * depth + "]}" * depth + "}}"
        data = message(batch(item(0, attributes=text)))
        try:
            decode(data, limits=Limits(attributes_depth=10**6))
        except LimitError as error:
            assert "attributes_depth" in str(error)


AUDITED = """
import sys, json
from mmformat.codec import decode
from mmformat.errors import MMFormatError
from tests.support.vectors import attacks, made_vectors

cases = [made.data for made in made_vectors()] + [attack.data for attack in attacks()]

def read():
    for data in cases:
        try:
            decode(data)
        except MMFormatError:
            pass

read()  # what torch, numpy and Arrow import or compile at their first use
seen = []
sys.addaudithook(lambda event, arguments: seen.append(event))
read()
sys.stdout.write(json.dumps(sorted(set(seen))))
"""

HARMLESS = {
    "object.__getattr__",  # inspection of an object
    "ctypes.addressof",  # views of a message's bytes
    "ctypes.cdata/buffer",
    "ctypes.cdata",
    "sys._getframe",
    "builtins.id",
    "array.__new__",
}


def test_decoding_runs_imports_and_opens_nothing() -> None:
    """Clauses: X-1. The interpreter's own audit, over every vector and every attack."""
    done = subprocess.run(
        [sys.executable, "-c", AUDITED], capture_output=True, text=True, check=True, timeout=100
    )
    assert set(json.loads(done.stdout)) <= HARMLESS


def test_a_message_that_changes_while_it_is_read_is_a_value_or_refused() -> None:
    """Clauses: X-4. Another process may still write: what was checked is a copy."""
    value = np.arange(1000, dtype=np.int32)
    items = [MultimodalDataItem(modality="IMAGE", feature=value, identity="ab" * 32)] * 4
    good = bytes(encode(MultimodalInputs(items=items)))
    shared = bytearray(good)
    (_, head) = metadata_of(good[len(SCHEMA_MESSAGE) :])
    end = len(SCHEMA_MESSAGE) + head + 1500
    stop = threading.Event()

    def spoil() -> None:
        generator = np.random.default_rng(3)
        while not stop.is_set():
            at = int(generator.integers(len(SCHEMA_MESSAGE), end))
            shared[at] ^= 1 << int(generator.integers(8))
            shared[at] = good[at]

    thread = threading.Thread(target=spoil)
    switch = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    thread.start()
    outcomes = set()
    try:
        for _ in range(1500):
            try:
                out = decode(shared)
                outcomes.add("value")
                assert [one.feature.nbytes for one in out.items] == [4000] * 4
            except MMFormatError as error:
                outcomes.add(error.code)
    finally:
        stop.set()
        thread.join()
        sys.setswitchinterval(switch)
    assert outcomes <= {*CLAUSES, "value"}
    assert "value" in outcomes


def test_what_was_decoded_does_not_follow_later_changes_of_the_columns() -> None:
    """Clauses: X-4. Names, shapes and attributes are copies; only tensor bytes are views."""
    data = bytearray(
        message(batch(item(0, tensor(shape=(5,)), identity="ab", offsets=[(1, 2)], hash="7")))
    )
    out = decode(data).items[0]
    columns = len(data) - len(END_OF_STREAM) - 64  # the body ends with the one tensor
    memoryview(data)[len(SCHEMA_MESSAGE) : columns] = bytes(columns - len(SCHEMA_MESSAGE))
    assert (out.identity, out.offsets, out.hash, out.feature.shape) == ("ab", [(1, 2)], 7, (5,))


def test_names_are_not_interpreted() -> None:
    """Clauses: X-1, A-7. A name that looks like code, a path or an attribute is only a name."""
    for name in ("__class__", "../../etc/passwd", "{0.__class__}", "a.b[0]", "$tensor", "\x00"):
        made = tensor(name, shape=(5,))
        data = message(batch(item(0, made, attributes={"feature": {"$ndarray": name}})))
        assert decode(data).items[0].feature.shape == (5,)


@pytest.mark.parametrize("limit", list(Limits.__slots__))
def test_every_limit_is_enforced(limit: str) -> None:
    """Clauses: B-1. Each alone, one below what the message needs."""
    value: Any = [[np.arange(40, dtype=np.float32).reshape(2, 20)]]
    inputs = MultimodalInputs(
        items=[MultimodalDataItem(modality="IMAGE", feature=np.zeros((2, 50), np.float32))] * 2,
        request_data={"x": value, "y": [1.5]},
    )
    plain = bytes(encode(inputs))
    half = [bytes(400)[:200], bytes(200)]
    bounds = {
        "message_nbytes": (plain, len(plain)),
        "decompressed_nbytes": (bomb(4096), None),
        "tensor_nbytes": (plain, 400),
        "metadata_nbytes": (plain, None),
        "items": (plain, 2),
        "tensors": (plain, 3),
        "batches": (bomb(4096), 2),
        "dimensions": (plain, 2),
        "chunks": (message(batch(item(0, tensor(shape=(100,), data=half)))), 2),
        "attributes_nbytes": (plain, None),
        "attributes_depth": (plain, None),
    }
    data, needed = bounds[limit]
    decode(data)
    low, high = 1, 2**24
    while low < high:  # the least bound that lets the message pass
        middle = (low + high) // 2
        try:
            decode(data, limits=Limits(**{limit: middle}))
            high = middle
        except LimitError as error:
            assert limit in str(error)
            assert error.hint is None or limit in error.hint
            low = middle + 1
    assert low > 1
    if needed is not None:
        assert low == needed


def test_lengths_that_overflow_64_bits_are_refused() -> None:
    """Clauses: T-4, L-3. Sums and products are exact, not modulo 2**64."""
    plain = batch(item(0, tensor()))
    metadata, _ = metadata_of(plain)
    for value in (2**63 - 1, 2**63 - 64, -(2**63), 2**62):
        flat = (*metadata.buffers[:-1], value)
        for changes in ({"buffers": flat}, {"body_nbytes": value}, {"length": value}):
            with pytest.raises(MMFormatError):
                decode(message(with_metadata(plain, **changes)))
    for shape in ((2**63 - 1,), (2**32, 2**32), (2**21,) * 3 + (2,), (3, 2**62 + 1)):
        entry = tensor(shape=shape, data=[struct.pack("<f", 1.0)])
        with pytest.raises(MMFormatError):
            decode(message(batch(item(0, entry))))


def test_two_readers_cannot_be_told_different_things() -> None:
    """What a second implementation refused and this one once took; clauses S-1, D-1, T-8."""
    empty = bytes(mm.encode(mm.MultimodalInputs()))
    with pytest.raises(mm.SchemaError):
        mm.decode(empty.replace(b"range\0", b"ranks\0", 1))
    scalar = bytes(mm.encode(mm.MultimodalInputs(request_data={"flag": np.bool_(True)})))
    assert b'"AQ=="' in scalar
    with pytest.raises(mm.DecodeError):
        mm.decode(scalar.replace(b'"AQ=="', b'"Ag=="'))
    codes, table = np.zeros((2, 3), np.uint8), np.zeros((1, 7), np.float32)
    tensor = mm.DictionaryTensor(codes, table, axis=0)
    item = mm.MultimodalDataItem(modality="IMAGE", feature=tensor)
    message = bytes(mm.encode(mm.MultimodalInputs(items=[item])))
    assert b'"repeat":1,"repeat_axis":0' in message
    twice = message.replace(b'"repeat":1,"repeat_axis":0', b'"repeat":1,"repeat":1     ')
    with pytest.raises(mm.DecodeError) as caught:
        mm.decode(twice)
    assert caught.value.code == "parameters"


def test_many_small_dictionaries_do_not_grow_past_the_limit() -> None:
    """13 KB that would become a gigabyte; counted before the first is expanded."""
    codes, table = np.zeros((1,), np.uint8), np.zeros((1, 1), np.float32)
    big = [
        mm.DictionaryTensor(codes, table, axis=0, repeat_axis=0, repeat=2**24) for _ in range(16)
    ]
    item = mm.MultimodalDataItem(modality="VIDEO", feature=big)
    message = bytes(mm.encode(mm.MultimodalInputs(items=[item])))
    limits = mm.Limits(decompressed_nbytes=2**28)
    tracemalloc.start()
    with pytest.raises(mm.LimitError):
        mm.decode(message, limits=limits)
    assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()
    kept = mm.decode(message, limits=limits, expand=False)
    assert len(kept.items[0].feature) == 16
