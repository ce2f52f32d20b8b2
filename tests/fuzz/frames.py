"""Any bytes as a compressed buffer: another binding of the library reads the same, or we refuse."""

from __future__ import annotations

import math
import random
from functools import cache, lru_cache
from typing import Final

import lz4.frame
import zstandard

from mmformat.codec.chained_buffer import open_chained
from mmformat.codec.compression import write_compressed_batch
from mmformat.codec.stream import find_batches
from tests.fuzz.messages import CODEC, check_message, edge, outcome
from tests.fuzz.target import Mutate, Target, expect
from tests.support.forgery import item, message, tensor, with_metadata
from tests.support.sweep import LIMITS

__all__ = ["DECOMPRESS"]

CODECS: Final = ("lz4", "zstd")
HEAD_NBYTES: Final = 5
"""The codec, and the claimed length, before the frame."""


@lru_cache(512)
def _good(codec: str, nbytes: int) -> tuple[bytes, int, tuple[int, ...]]:
    """Return a batch with one compressed tensor, where its body begins, and its buffers."""
    row = item(0, tensor(dtype="uint8", shape=(nbytes,), data=[bytes(nbytes)]))
    good = b"".join(write_compressed_batch([row], codec, worth_ratio=math.inf))
    found = next(iter(find_batches(open_chained(message(good)), LIMITS)))
    return good, found.body_at - found.start, found.metadata.buffers


def compressed_message(data: bytes) -> tuple[bytes, int, bytes]:
    """Return a message whose one tensor is this frame, behind this claimed length."""
    codec = CODECS[data[0] % 2] if data else "lz4"
    claimed = int.from_bytes(data[1:HEAD_NBYTES], "little", signed=True)
    frame = data[HEAD_NBYTES:]
    good, start, places = _good(codec, max(0, min(claimed, 2**21)))
    if claimed <= 12:
        return message(good), claimed, frame
    buffers = list(places)
    stored = claimed.to_bytes(8, "little", signed=True) + frame
    body = good[start : start + buffers[-2]] + stored
    body += bytes(-len(body) % 64)
    buffers[-1] = len(stored)
    forged = with_metadata(good, body, buffers=tuple(buffers), body_nbytes=len(body))
    return message(forged), claimed, frame


def check_frame(data: bytes) -> None:
    """Hold what we read out of a frame against another binding of the codec's library."""
    made, claimed, frame = compressed_message(data)
    check_message(made)
    code, inputs = outcome(made)
    if inputs is None or not 12 < claimed <= 2**21:
        allowed = (None, "compression", "compression-codec", "limit", "view-prefix")
        expect(code in allowed, f"refused as {code}")
        return
    values = bytes(inputs.items[0].feature)
    expect(len(values) == claimed, "another length than was claimed")
    if data[0] % 2:
        read = zstandard.ZstdDecompressor().decompress(frame, max_output_size=claimed)
    else:
        read = lz4.frame.decompress(frame)
    expect(values == read, "other bytes than another binding reads")


@cache
def frame_seeds() -> list[bytes]:
    """Return frames of every kind of header, block and ending, good and bad."""
    texts = [bytes(100), bytes(range(256)) * 40, random.Random(3).randbytes(300), b"ab" * 40000]
    seeds = []
    for text in texts:
        length = len(text).to_bytes(4, "little")
        for number in range(8):
            frame = lz4.frame.compress(
                text,
                block_linked=bool(number & 1),
                content_checksum=bool(number & 2),
                block_checksum=bool(number & 4),
                store_size=bool(number & 1),
                block_size=4 + number % 4,
            )
            seeds.append(b"\0" + length + frame)
            frame = zstandard.ZstdCompressor(
                level=(-5, 1, 9, 19)[number % 4],
                write_checksum=bool(number & 2),
                write_content_size=bool(number & 4),
            ).compress(text)
            seeds.append(b"\1" + length + frame)
    seeds.append(b"\0" + (100).to_bytes(4, "little") + lz4.frame.compress(bytes(50)) * 2)
    skipped = b"\x50\x2a\x4d\x18\x04\0\0\0abcd"
    seeds += [seed[:HEAD_NBYTES] + skipped + seed[HEAD_NBYTES:] for seed in seeds[:2]]
    return [seed for seed in seeds if len(seed) <= 20_000]


def mutate_frame(data: bytes, limit: int, chance: random.Random, mutate: Mutate) -> bytes:
    """Change the codec, the claimed length, the frame's header, or its bytes."""
    data = data.ljust(HEAD_NBYTES, b"\0")
    how = chance.randrange(8)
    if how < 2:
        old = int.from_bytes(data[1:HEAD_NBYTES], "little", signed=True)
        length = (edge(chance, old) % 2**32).to_bytes(4, "little")
        return data[:1] + length + data[HEAD_NBYTES:]
    if how < 4 and len(data) > 12:
        at = chance.randrange(HEAD_NBYTES, min(len(data), 25))
        return data[:at] + bytes([chance.randrange(256)]) + data[at + 1 :]
    if how == 4:
        other = chance.choice(frame_seeds())
        cut = chance.randrange(HEAD_NBYTES, len(data) + 1)
        return data[:cut] + other[chance.randrange(HEAD_NBYTES, len(other)) :]
    if how == 5:
        return bytes([data[0] ^ 1]) + data[1:]
    return data[:HEAD_NBYTES] + mutate(data[HEAD_NBYTES:], limit - HEAD_NBYTES)


DECOMPRESS = Target(
    name="decompress",
    seeds=frame_seeds,
    check=check_frame,
    mutate=mutate_frame,
    max_nbytes=2**14,
    modules=CODEC,
)
