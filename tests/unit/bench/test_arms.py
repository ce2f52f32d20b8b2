"""Each arm carries every bit, and leaves nothing behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmformat.bench.arms import ARMS, Arm, make_arm, why_missing
from mmformat.bench.arms import catalogue as arms_catalogue
from mmformat.bench.arms.arena import ArenaAgainArm
from mmformat.bench.arms.own import PlainArm
from mmformat.bench.codec import run_codec
from mmformat.bench.pages import touch
from mmformat.bench.payloads import digests_of, payload, stamp
from mmformat.errors import ModelError
from mmformat.model import MultimodalInputs

SHM = Path("/dev/shm")


def _inputs(arm: Arm, number: int) -> MultimodalInputs:
    chosen = payload("photo" if arm.wants_dictionary else "image-small")
    make = chosen.dictionary if arm.wants_dictionary else chosen.make
    assert make is not None
    inputs = make(0)
    stamp(inputs, number)
    return inputs


@pytest.mark.parametrize("name", ARMS)
@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")
def test_every_bit_arrives(name: str) -> None:
    """Three requests in a row, each with other bytes, through received memory."""
    reason = why_missing(name)
    if reason is not None:
        pytest.skip(reason)
    before = set(SHM.glob("bench-mmformat-*"))
    producer, reader = make_arm(name), make_arm(name)
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
    arm = make_arm(name)
    inputs = _inputs(arm, 0)
    inputs.items[0].hash = 2**63 + 5
    decoded = arm.decode(list(arm.encode(inputs)))
    assert decoded.items[0].hash == 2**63 + 5
    assert [tuple(each) for each in decoded.items[0].offsets] == inputs.items[0].offsets
    assert decoded.request_data == inputs.request_data


@pytest.mark.parametrize("name", ["pickle5-oob", "msgspec-oob", "mmformat"])
def test_arms_that_claim_views_copy_no_feature(name: str) -> None:
    arm = make_arm(name)
    inputs = _inputs(arm, 0)
    feature = inputs.items[0].feature
    decoded = arm.decode(list(arm.encode(inputs)))
    assert decoded.items[0].feature.data_ptr() == feature.data_ptr()


def test_content_that_is_there_already_is_found() -> None:
    arm = make_arm("mmformat-arena-again")
    assert isinstance(arm, ArenaAgainArm)
    inputs = _inputs(arm, 0)
    arm.open(nbytes=2_000_000, ranks=1)
    try:
        arm.encode(inputs)
        assert arm.saved_nbytes == 0
        arm.encode(inputs)
        assert arm.saved_nbytes > 600_000
    finally:
        arm.close()


def test_pickles_differ_in_their_protocol() -> None:
    for protocol in (4, 5):
        arm = make_arm(f"pickle{protocol}")
        assert arm.encode(_inputs(arm, 0))[0][:2] == bytes([0x80, protocol])


def test_an_absent_engine_is_said_to_be_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmformat.bench.arms.engine_vllm.VllmArm.module", "no_such_engine.inner")
    assert why_missing("vllm") == "no_such_engine.inner is not installed"
    result = run_codec(payloads=["image-small"], arms=["mmformat", "vllm"], quick=True)
    assert result.missing == {"vllm": "no_such_engine.inner is not installed"}
    assert {cell.arm for cell in result.cells} == {"mmformat"}


def test_an_unknown_arm() -> None:
    with pytest.raises(ModelError, match="mmformat-arena"):
        make_arm("nonsense")


class _Liar(PlainArm):
    """Change one byte of what arrives."""

    def decode(self, frames: object) -> object:
        decoded = super().decode([bytearray(memoryview(frame)) for frame in frames])
        decoded.items[0].feature[0, 1] += 1
        return decoded


def test_a_changed_byte_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        arms_catalogue, "arm_class", lambda name: _Liar if name == "pickle5" else PlainArm
    )
    result = run_codec(payloads=["image-small"], arms=["mmformat", "pickle5"], rounds=1, quick=True)
    assert {cell.arm: cell.correct for cell in result.cells} == {"mmformat": True, "pickle5": False}
    assert not result.is_correct
