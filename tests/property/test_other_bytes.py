"""Any bytes as a handle, a segment, a pickle or a file give a value or an MMFormatError."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmformat.codec import decode
from mmformat.codec.schema import SCHEMA_MESSAGE
from mmformat.errors import DecodeError, MMFormatError, TransportError
from mmformat.legacy import PickleLimits, convert
from mmformat.shm import Handle
from mmformat.shm.layout import HEADER_NBYTES, PAGE, Layout
from mmformat.testing import golden_vectors
from tests.fuzz.segments import check_handle, check_segment, handle_seeds, segment_seeds
from tests.support.sweep import outcome

HANDLES = [seed for seed in handle_seeds() if len(seed) > 80]
SEGMENTS = segment_seeds()


@st.composite
def changed(draw: st.DrawFn, seeds: list[bytes], most: int) -> bytes:
    """Draw one of the seeds with a few bytes set, cut off or put in."""
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        new = draw(st.binary(max_size=12))
        data[at : at + draw(st.sampled_from([0, len(new), len(new), 8]))] = new
    return bytes(data[:most])


@settings(max_examples=400)
@given(st.binary(max_size=300) | changed(HANDLES, 300))
def test_any_bytes_as_a_handle(data: bytes) -> None:
    check_handle(data)


@pytest.mark.parametrize("nbytes", range(len(HANDLES[0])))
def test_a_handle_cut_anywhere_is_refused(nbytes: int) -> None:
    with pytest.raises(TransportError) as caught:
        Handle.from_bytes(HANDLES[0][:nbytes])
    assert caught.value.code == "handle"


def test_a_handle_with_any_bit_flipped_is_refused() -> None:
    for at in range(8 * len(HANDLES[0])):
        data = bytearray(HANDLES[0])
        data[at // 8] ^= 1 << at % 8
        with pytest.raises(TransportError) as caught:
            Handle.from_bytes(data)
        assert caught.value.code in ("handle", "handle-version")


@settings(max_examples=300)
@given(st.binary(max_size=300) | changed(SEGMENTS, 2**16))
def test_any_bytes_as_a_segment(data: bytes) -> None:
    check_segment(data)


def test_a_header_with_any_bit_flipped_is_refused() -> None:
    layout = Layout(
        ranks=2,
        slots=4,
        data_nbytes=2 * PAGE,
        producer_pid=1,
        producer_start=2,
        created_ns=3,
        segment_id=bytes(16),
        boot_id=bytes(16),
    )
    header = layout.pack()
    assert Layout.unpack(header, segment_nbytes=layout.segment_nbytes) == layout
    codes = {"segment-magic", "segment-version", "segment-crc"}
    for at in range(8 * HEADER_NBYTES):
        data = bytearray(header)
        data[at // 8] ^= 1 << at % 8
        with pytest.raises(TransportError) as caught:
            Layout.unpack(bytes(data), segment_nbytes=layout.segment_nbytes)
        assert caught.value.code in codes
    for nbytes in range(HEADER_NBYTES):
        with pytest.raises(TransportError):
            Layout.unpack(header[:nbytes], segment_nbytes=layout.segment_nbytes)


@settings(max_examples=400)
@given(st.binary(max_size=200), st.sampled_from([b"", b"\x80\x02", b"\x80\x04", b"PK\x03\x04"]))
def test_any_bytes_as_a_pickle(noise: bytes, start: bytes) -> None:
    try:
        convert(start + noise, isolated=False, limits=PickleLimits(tensor_nbytes=2**20, time_s=20))
    except MMFormatError as error:
        assert error.code


@settings(max_examples=200)
@given(st.binary(max_size=200), st.sampled_from([0, 8, 400, len(SCHEMA_MESSAGE)]))
def test_any_bytes_as_a_file(noise: bytes, nbytes: int) -> None:
    """Clauses: E-3. A file is mapped, and read as the same bytes are in memory."""
    data = SCHEMA_MESSAGE[:nbytes] + noise
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "any.arrows"
        path.write_bytes(data)
        assert outcome(path) == outcome(data)  # type: ignore[arg-type]


def _descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def _convert(path: Path) -> None:
    convert(path, isolated=False)


@pytest.mark.parametrize("read", [decode, _convert])
@pytest.mark.parametrize("what", ["folder", "none", "pipe", "socket", "empty"])
def test_what_is_no_file_is_refused(
    what: str, read: Callable[[Path], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody writes to the pipe: a reader that opened it would wait for ever."""
    monkeypatch.chdir(tmp_path)  # a socket's whole path has 107 bytes at most
    path = Path(what)
    if what == "folder":
        path.mkdir()
    elif what == "pipe":
        os.mkfifo(path)
    elif what == "empty":
        path.touch()
    elif what == "socket":
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(what)
    before = _descriptors()
    with pytest.raises(DecodeError):
        read(path)
    assert _descriptors() == before


def test_a_vector_as_a_file_is_the_vector() -> None:
    for vector in golden_vectors():
        assert outcome(vector.path) == outcome(vector.read()), vector.name  # type: ignore[arg-type]
