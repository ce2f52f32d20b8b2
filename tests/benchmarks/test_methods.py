"""Each method carries every bit, and leaves nothing behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.baselines import METHODS, Method, make_method, why_missing
from benchmarks.baselines.own import ArenaAgainMethod
from benchmarks.payloads import payload
from benchmarks.scenarios import SCENARIOS
from mmformat.bench.methods import PlainMethod
from mmformat.bench.payloads import digests_of, stamp, touch
from mmformat.errors import ModelError
from mmformat.model import DictionaryTensor, MultimodalInputs

SHM = Path("/dev/shm")


def _inputs(method: Method, number: int) -> MultimodalInputs:
    chosen = payload("photo" if method.wants_dictionary else "image-small")
    make = chosen.dictionary if method.wants_dictionary else chosen.make
    assert make is not None
    inputs = make(0)
    stamp(inputs, number)
    return inputs


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")
def test_every_bit_arrives(name: str) -> None:
    """Three requests in a row, each with other bytes, through received memory."""
    reason = why_missing(name)
    if reason is not None:
        pytest.skip(reason)
    before = set(SHM.glob("bench-mmformat-*"))
    producer, reader = make_method(name), make_method(name)
    producer.open(nbytes=26_000_000, ranks=1)
    reader.attach(rank=0)
    try:
        for number in range(1 if producer.wants_same else 3):
            inputs = _inputs(producer, number)
            frames = [bytes(memoryview(frame)) for frame in producer.encode(inputs)]
            decoded = reader.decode(frames)
            touch(decoded)
            if producer.carries:
                assert digests_of(decoded) == digests_of(inputs)
            del decoded
            reader.release()
            producer.reclaim()
    finally:
        reader.close()
        producer.close()
    assert set(SHM.glob("bench-mmformat-*")) == before


@pytest.mark.parametrize("name", ["pickle4", "pickle5", "msgspec-oob", "torch-save", "mmformat"])
def test_arms_carry_more_than_features(name: str) -> None:
    method = make_method(name)
    inputs = _inputs(method, 0)
    inputs.items[0].hash = 2**63 + 5
    decoded = method.decode(list(method.encode(inputs)))
    assert decoded.items[0].hash == 2**63 + 5
    assert [tuple(each) for each in decoded.items[0].offsets] == inputs.items[0].offsets
    assert decoded.request_data == inputs.request_data


@pytest.mark.parametrize("name", ["pickle5-oob", "msgspec-oob", "mmformat"])
def test_arms_that_claim_views_copy_no_feature(name: str) -> None:
    method = make_method(name)
    inputs = _inputs(method, 0)
    feature = inputs.items[0].feature
    decoded = method.decode(list(method.encode(inputs)))
    assert decoded.items[0].feature.data_ptr() == feature.data_ptr()


def test_content_that_is_there_already_is_found() -> None:
    method = make_method("mmformat-arena-again")
    assert isinstance(method, ArenaAgainMethod)
    inputs = _inputs(method, 0)
    method.open(nbytes=2_000_000, ranks=1)
    try:
        method.encode(inputs)
        assert method.saved_nbytes == 0
        method.encode(inputs)
        assert method.saved_nbytes > 600_000
    finally:
        method.close()


def test_pickles_differ_in_their_protocol() -> None:
    for protocol in (4, 5):
        method = make_method(f"pickle{protocol}")
        assert method.encode(_inputs(method, 0))[0][:2] == bytes([0x80, protocol])


def test_an_absent_engine_is_said_to_be_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "benchmarks.baselines.engine_vllm.VllmMethod.module", "no_such_engine.inner"
    )
    assert why_missing("vllm") == "no_such_engine.inner is not installed"
    result = SCENARIOS["codec"].run(
        payloads=["image-small"], methods=["mmformat", "vllm"], quick=True
    )
    assert result.missing == {"vllm": "no_such_engine.inner is not installed"}
    assert {cell.method for cell in result.cells} == {"mmformat"}


def test_an_unknown_method() -> None:
    with pytest.raises(ModelError, match="mmformat-arena"):
        make_method("nonsense")


class _Liar(PlainMethod):
    """Change one byte of what arrives."""

    def decode(self, frames: object) -> object:
        decoded = super().decode([bytearray(memoryview(frame)) for frame in frames])
        decoded.items[0].feature[0, 1] += 1
        return decoded


def test_a_changed_byte_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "benchmarks.codec.method_class", lambda name: _Liar if name == "pickle5" else PlainMethod
    )
    result = SCENARIOS["codec"].run(
        payloads=["image-small"], methods=["mmformat", "pickle5"], rounds=1, quick=True
    )
    assert {cell.method: cell.correct for cell in result.cells} == {
        "mmformat": True,
        "pickle5": False,
    }
    assert not result.is_correct


def test_the_photograph_is_the_same_as_codes() -> None:
    chosen = payload("photo")
    assert chosen.dictionary is not None
    plain, encoded = chosen.make(0), chosen.dictionary(0)
    assert isinstance(encoded.items[0].feature, DictionaryTensor)
    assert digests_of(plain) == digests_of(encoded)
    stamp(encoded, 3)
    assert digests_of(plain) != digests_of(encoded)
