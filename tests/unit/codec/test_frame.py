"""Frames that their codec's library would take, and a reader of this format must not."""

from __future__ import annotations

import contextlib
import ctypes
import struct

import lz4.frame
import numpy as np
import pyarrow as pa
import pytest

from mmformat._arrow import codec_of
from mmformat.codec import decode
from mmformat.codec.compression import write_compressed_batch
from mmformat.codec.decompression import _library, check_frame, has_library, unpack_frame
from mmformat.errors import MMFormatError
from tests.support.attacks import _with_buffer
from tests.support.forgery import batch, item, message, tensor

VALUES = (np.arange(40_000) // 40).astype(np.uint8).tobytes()
ZSTD = bytes(codec_of("zstd").compress(VALUES))
LZ4 = lz4.frame.compress(VALUES)


def carried(frame: bytes, values: bytes = VALUES, *, codec: str = "lz4") -> bytes:
    """A message whose tensor is a frame, behind the length and the view that are right."""
    feature = {"attributes": {"feature": {"$ndarray": "feature"}}}
    row = item(
        0,
        tensor(dtype="uint8", shape=(len(values),), data=[values]),
        attributes=None,
        format=None,
    )
    packed = b"".join(write_compressed_batch([row], codec))
    raw = struct.pack("<q", len(values)) + frame
    return message(batch(item(0, **feature)), _with_buffer(packed, 49, raw))


def code_of(data: bytes) -> str:
    with pytest.raises(MMFormatError) as caught:
        decode(data)
    return caught.value.code


@pytest.mark.parametrize("block_size", [4, 5, 6, 7])
@pytest.mark.parametrize("sums", [False, True])
@pytest.mark.parametrize("store_size", [False, True])
@pytest.mark.parametrize("linked", [False, True])
def test_frames_of_every_kind(block_size: int, sums: bool, store_size: bool, linked: bool) -> None:
    """Clauses: Z-2. As the lz4 package writes them."""
    values = VALUES * 10
    frame = lz4.frame.compress(
        values,
        block_size=block_size,
        block_linked=linked,
        block_checksum=sums,
        content_checksum=sums,
        store_size=store_size,
    )
    check_frame(frame, len(values), "lz4", path="$")
    assert decode(carried(frame, values)).items[0].feature.tobytes() == values


@pytest.mark.parametrize("level", [1, 3, 9, 19])
@pytest.mark.parametrize("nbytes", [13, 200, 300, 70_000, 3_000_000])
def test_zstandard_frames_of_every_size(level: int, nbytes: int) -> None:
    """Clauses: Z-1, Z-2. Lengths of one, two and four bytes, with and without a window."""
    values = (VALUES * 80)[:nbytes]
    frame = bytes(pa.Codec("zstd", compression_level=level).compress(values))
    check_frame(frame, nbytes, "zstd", path="$")
    assert decode(carried(frame, values, codec="zstd")).items[0].feature.tobytes() == values


def test_a_streamed_zstandard_frame_has_no_length_of_its_own() -> None:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(VALUES)
    frame = sink.getvalue().to_pybytes()
    assert decode(carried(frame, codec="zstd")).items[0].feature.tobytes() == VALUES


@pytest.mark.parametrize(("frame", "codec"), [(LZ4, "lz4"), (ZSTD, "zstd")])
def test_two_frames_and_bytes_behind_one(frame: bytes, codec: str) -> None:
    """Clauses: Z-2. The library would go on with the next frame."""
    half = len(VALUES) // 2
    library = codec_of(codec)
    two = bytes(library.compress(VALUES[:half])) + bytes(library.compress(VALUES[half:]))
    for data in (two, frame + b"\0", frame + frame, frame[:-1], frame[:7], frame[:4], b""):
        assert code_of(carried(data, codec=codec)) == "compression"


def test_every_cut_frame_is_refused() -> None:
    for frame, codec in ((LZ4, "lz4"), (ZSTD, "zstd")):
        for end in range(len(frame)):
            with pytest.raises(MMFormatError):
                check_frame(frame[:end], len(VALUES), codec, path="$")


def test_a_frame_of_the_other_codec() -> None:
    """Clauses: Z-1."""
    assert code_of(carried(LZ4, codec="zstd")) == "compression-codec"
    assert code_of(carried(ZSTD, codec="lz4")) == "compression-codec"


def test_a_frame_that_says_another_length() -> None:
    """Clauses: Z-2. In its own header, whatever is in its blocks."""
    frame = lz4.frame.compress(VALUES[:-1], store_size=True)
    assert code_of(carried(frame)) == "compression"
    frame = bytes(codec_of("zstd").compress(VALUES[:-1]))
    assert code_of(carried(frame, codec="zstd")) == "compression"


def test_a_frame_with_a_dictionary() -> None:
    """Clauses: Z-6."""
    for frame, codec, flag in ((LZ4, "lz4", 1), (ZSTD, "zstd", 1)):
        data = bytearray(frame)
        data[4] |= flag
        assert code_of(carried(bytes(data), codec=codec)) == "compression"


def test_a_large_window_is_refused_before_memory_is_taken_for_it() -> None:
    """Clauses: Z-6. 128 MiB for a frame of 30 KB, in every thread."""
    block = struct.pack("<I", 1 | 0 << 1 | 20 << 3)[:3] + bytes(20)
    frame = b"\x28\xb5\x2f\xfd" + bytes([0, (27 - 10) << 3]) + block
    with pa.CompressedInputStream(pa.BufferReader(frame), "zstd") as stream:
        assert stream.read() == bytes(20)  # the library takes it
    assert code_of(carried(frame, bytes(20), codec="zstd")) == "compression"
    fine = b"\x28\xb5\x2f\xfd" + bytes([0, (23 - 10) << 3]) + block
    assert decode(carried(fine, bytes(20), codec="zstd")).items[0].feature.tobytes() == bytes(20)


@pytest.mark.parametrize("codec", ["lz4", "zstd"])
def test_blocks_of_a_byte_are_not_walked(codec: str) -> None:
    """Clauses: Z-6. 20,000 blocks of one byte each; a few small ones are fine."""
    for count, fits in ((16, True), (20_000, False)):
        values = bytes(index % 251 for index in range(count))
        if codec == "lz4":
            blocks = b"".join(struct.pack("<I", 0x80000001) + bytes([value]) for value in values)
            frame = LZ4[:4] + bytes.fromhex("604082") + blocks + bytes(4)
        else:
            raw = struct.pack("<I", 1 << 3)[:3]
            blocks = b"".join(raw + bytes([value]) for value in values[:-1])
            last = struct.pack("<I", 1 | 1 << 3)[:3] + values[-1:]
            frame = ZSTD[:4] + bytes([0, 0]) + blocks + last
        with pa.CompressedInputStream(pa.BufferReader(frame), codec) as stream:
            assert stream.read() == values  # the library takes both
        data = carried(frame, values, codec=codec)
        if fits:
            assert decode(data).items[0].feature.tobytes() == values
        else:
            assert code_of(data) == "compression"


def test_a_match_with_the_offset_0_gives_zeros_or_an_error() -> None:
    """Clauses: Z-7. And never what stood in memory: the pools are full of 0xAA before."""
    match = 4000
    extra = match - 4 - 15
    block = b"\x1fL\0\0" + b"\xff" * (extra // 255) + bytes([extra % 255]) + b"\x50abcde"
    values = b"L" + bytes(match) + b"abcde"
    frame = LZ4[:4] + bytes.fromhex("604082") + struct.pack("<I", len(block)) + block + bytes(4)
    data = carried(frame, values)
    for nbytes in (4006, 4096, 8192, 65_536, 2**20, 2**20):
        dirty = pa.allocate_buffer(nbytes)
        ctypes.memset(dirty.address, 0xAA, nbytes)
        del dirty
        np.full(nbytes, 0xAA, np.uint8)
        try:
            found = decode(data).items[0].feature.tobytes()
        except MMFormatError as error:
            assert error.code == "compression"
        else:
            assert found == values


def test_the_systems_library_is_used_here_and_both_ways_agree(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What the frames above were undone by, where it is new enough; pyarrow does the same."""
    frame = lz4.frame.compress(VALUES, content_checksum=True)
    broken = bytearray(frame)
    broken[-1] ^= 1  # of the checksum
    outcomes = []
    for has in (has_library(), False):
        monkeypatch.setattr("mmformat.codec.decompression.has_library", lambda has=has: has)
        found = decode(carried(frame)).items[0].feature.tobytes()
        outcomes.append((found, code_of(carried(bytes(broken))), code_of(carried(frame * 2))))
    assert outcomes == [(VALUES, "compression", "compression")] * 2


@pytest.mark.skipif(not has_library(), reason="the system has no liblz4.so.1 of 1.9.4 or newer")
def test_the_systems_library_writes_where_it_is_told_and_nowhere_else() -> None:
    room = bytearray(b"\xaa" * (len(VALUES) + 64))
    target = memoryview(room)[32:-32]
    unpack_frame(memoryview(LZ4), target)
    assert bytes(room) == b"\xaa" * 32 + VALUES + b"\xaa" * 32
    for wrong in (target[:-1], memoryview(room)[:-31]):
        with pytest.raises(ValueError, match="bytes"):
            unpack_frame(memoryview(LZ4), wrong)
    for at in range(len(LZ4)):
        flipped = bytearray(LZ4)
        flipped[at] ^= 0x55
        room[:] = b"\xaa" * len(room)
        with contextlib.suppress(ValueError):
            unpack_frame(memoryview(flipped), target)
        assert bytes(room[:32]) == bytes(room[-32:]) == b"\xaa" * 32


def test_a_system_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """None at all, one that is too old, one that is something else."""

    class Old:
        @staticmethod
        def LZ4_versionNumber() -> int:
            return 10800

    def absent(name: str) -> object:
        raise OSError(name)

    for open_library in (absent, lambda name: Old, lambda name: object()):
        monkeypatch.setattr("ctypes.CDLL", open_library)
        assert _library.__wrapped__() is None
