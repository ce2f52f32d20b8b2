"""A stream that was cut or damaged anywhere gives an error of ours, or a value; never another."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

import mmformat as mm
from mmformat.legacy import PickleLimits, convert
from tests.security.legacy.attacks import storage_stream, torch_tensor, torch_zip, zip_root

FOLDER = Path(__file__).parents[2] / "data" / "legacy"
SMALL = [
    FOLDER / "v0_5_5" / "item_merge_lists.p4.pkl",
    FOLDER / "v0_5_5" / "video_none_feature_empty_msd.p2.pkl",
    FOLDER / "v0_5_23" / "shared_tensor_alias.p4.pkl",
    FOLDER / "v0_5_23" / "req_text_only.p4.pkl",
    FOLDER / "v0_5_23" / "hash_extremes.p4.pkl",
]
LIMITS = PickleLimits(tensor_nbytes=2**24, time_s=20)


@pytest.mark.parametrize("path", SMALL, ids=[path.name for path in SMALL])
def test_a_file_cut_at_every_byte(path: Path) -> None:
    data = path.read_bytes()
    convert(data, isolated=False)
    for length in range(len(data)):
        with pytest.raises(mm.DecodeError):
            convert(data[:length], isolated=False)


@pytest.mark.parametrize("cut", ["stream", "zip"])
def test_a_torch_file_cut_at_every_byte(cut: str) -> None:
    data = storage_stream() if cut == "stream" else torch_zip(zip_root())
    for length in range(len(data)):
        with pytest.raises(mm.DecodeError):
            convert(data[:length], isolated=False)


def test_a_nested_stream_cut_at_every_byte() -> None:
    """The outer pickle stays whole; the torch stream within it ends early."""
    stream = storage_stream()
    convert(torch_tensor(stream), isolated=False)
    for length in range(len(stream)):
        with pytest.raises(mm.DecodeError):
            convert(torch_tensor(stream[:length]), isolated=False)


@pytest.mark.parametrize("path", SMALL, ids=[path.name for path in SMALL])
def test_a_file_with_any_byte_changed(path: Path) -> None:
    """Any bytes give a value or an MMFormatError."""
    chance = random.Random(20_251_122)
    data = path.read_bytes()
    for _ in range(1_500):
        changed = bytearray(data)
        for _ in range(chance.choice((1, 1, 1, 2, 8))):
            changed[chance.randrange(len(data))] = chance.randrange(256)
        try:
            convert(changed, isolated=False, limits=LIMITS)
        except mm.MMFormatError:
            continue


def test_any_bytes() -> None:
    chance = random.Random(7)
    opcodes = b"(.012FGIJKLMNPQRSTUVXabcdefghijloprstu}]){}\x80\x81\x85\x86\x87\x88"
    opcodes += b"\x8c\x8f\x90\x93\x94\x95"
    for _ in range(20_000):
        data = bytes(chance.choice(opcodes) for _ in range(chance.randrange(1, 40)))
        try:
            convert(data, isolated=False, limits=LIMITS)
        except mm.MMFormatError:
            continue
