"""Handles: small, exact, and never trusted."""

from __future__ import annotations

import contextlib
import dataclasses
import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmformat.errors import MMFormatError, TransportError
from mmformat.shm import Handle

GOOD = Handle(
    name="mmf-0-12345-67890-0123abcd",
    segment_id=bytes(range(16)),
    slot=1023,
    generation=2**63,
    offset=2**40,
    nbytes=2**33 + 1,
    holders=0b1111,
)


def _signed(raw: bytes) -> bytes:
    return raw + struct.pack("<I", zlib.crc32(raw))


def test_round_trip_under_256_bytes() -> None:
    raw = bytes(GOOD)
    assert len(raw) < 256
    assert Handle.from_bytes(raw) == GOOD
    assert Handle.from_bytes(memoryview(raw)) == GOOD
    assert hash(Handle.from_bytes(raw)) == hash(GOOD)
    assert len(bytes(dataclasses.replace(GOOD, name="mmf-" + "a" * 96))) < 256


def test_every_single_bit_is_guarded() -> None:
    raw = bytearray(bytes(GOOD))
    for bit in range(len(raw) * 8):
        raw[bit // 8] ^= 1 << bit % 8
        with pytest.raises(TransportError):
            Handle.from_bytes(bytes(raw))
        raw[bit // 8] ^= 1 << bit % 8


@pytest.mark.parametrize("length", [0, 1, 30, 62, 80, 255, 256, 257, 100_000])
def test_other_lengths_are_refused(length: int) -> None:
    raw = (bytes(GOOD) + bytes(100_000))[:length]
    with pytest.raises(TransportError) as caught:
        Handle.from_bytes(raw)
    assert caught.value.code == "handle"


@pytest.mark.parametrize(
    "name",
    [
        "../../etc/passwd",
        "mmf-../x",
        "mmf-a/b",
        "mmf-.",
        "mmf-",
        "",
        "psm_1234",
        "mmf-a\x00b",
        "mmf-a\n",
        "mmf-é",
        "mmf-" + "a" * 97,
        "/mmf-a",
    ],
)
def test_names_that_could_leave_the_directory_are_refused_even_when_signed(name: str) -> None:
    raw = bytes(dataclasses.replace(GOOD, name=name))
    with pytest.raises(TransportError) as caught:
        Handle.from_bytes(raw)
    assert caught.value.code in ("segment-name", "handle")


def test_a_newer_version_is_refused_by_name() -> None:
    raw = bytes(GOOD)[:-4]
    with pytest.raises(TransportError) as caught:
        Handle.from_bytes(_signed(raw[:4] + b"\x03\x00" + raw[6:]))
    assert caught.value.code == "handle-version"
    assert "version 1 or 2, got 3" in str(caught.value)


@pytest.mark.parametrize("field", ["generation", "nbytes"])
def test_a_slot_that_was_never_sealed_is_refused(field: str) -> None:
    with pytest.raises(TransportError):
        Handle.from_bytes(bytes(dataclasses.replace(GOOD, **{field: 0})))


@given(st.binary(max_size=300))
def test_any_bytes_give_a_handle_or_our_error(raw: bytes) -> None:
    with contextlib.suppress(MMFormatError):
        assert bytes(Handle.from_bytes(raw)) == raw


@given(st.binary(min_size=64, max_size=240))
def test_any_signed_bytes_give_a_handle_or_our_error(raw: bytes) -> None:
    body = b"mmfh\x01\x00" + struct.pack("<H", max(0, len(raw) - 60)) + raw
    try:
        handle = Handle.from_bytes(_signed(body))
    except MMFormatError:
        return
    assert handle.name.startswith("mmf-") and "/" not in handle.name
