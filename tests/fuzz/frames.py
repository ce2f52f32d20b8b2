"""Any bytes as a compressed buffer: another binding of the library reads the same, or we refuse."""

from __future__ import annotations

import random
from functools import cache

import lz4.frame

from mmformat.codec.spans import open_spans
from mmformat.codec.stream import find_batches
from mmformat.testing.forgery import batch, item, message, tensor, with_metadata
from mmformat.testing.sweep import LIMITS
from tests.fuzz.messages import CODEC, check_message, edge, outcome
from tests.fuzz.target import Mutate, Target, expect

__all__ = ["DECOMPRESS"]


def compressed_message(data: bytes) -> tuple[bytes, int, bytes]:
    """Return a message whose one tensor is this frame, behind this claimed length."""
    claimed = int.from_bytes(data[:4], "little", signed=True)
    frame = data[4:]
    shape = (max(0, min(claimed, 2**21)),)
    good = batch(item(0, tensor(dtype="uint8", shape=(64,))), compressed=True)
    found = next(iter(find_batches(open_spans(message(good)), LIMITS)))
    row = item(0, tensor(dtype="uint8", shape=shape, data=[bytes(shape[0])]))
    good = batch(row, compressed=True)
    found = next(iter(find_batches(open_spans(message(good)), LIMITS)))
    if shape[0] <= 12:
        return message(good), claimed, frame
    start = found.body_at - found.start
    buffers = list(found.metadata.buffers)
    stored = claimed.to_bytes(8, "little", signed=True) + frame
    body = good[start : start + buffers[-2]] + stored
    body += bytes(-len(body) % 64)
    buffers[-1] = len(stored)
    forged = with_metadata(good, body, buffers=tuple(buffers), body_nbytes=len(body))
    return message(forged), claimed, frame


def check_frame(data: bytes) -> None:
    """Hold what we read out of a frame against another binding of the LZ4 library."""
    made, claimed, frame = compressed_message(data)
    check_message(made)
    code, inputs = outcome(made)
    if inputs is None or not 12 < claimed <= 2**21:
        expect(code in (None, "compression", "limit", "view-prefix"), f"refused as {code}")
        return
    values = bytes(inputs.items[0].feature)
    expect(len(values) == claimed, "another length than was claimed")
    expect(values == lz4.frame.decompress(frame), "other bytes than lz4.frame reads")


@cache
def frame_seeds() -> list[bytes]:
    """Return LZ4 frames of every kind of header, block and ending, good and bad."""
    texts = [bytes(100), bytes(range(256)) * 40, random.Random(3).randbytes(300), b"ab" * 40000]
    seeds = []
    for text in texts:
        for number in range(8):
            frame = lz4.frame.compress(
                text,
                block_linked=bool(number & 1),
                content_checksum=bool(number & 2),
                block_checksum=bool(number & 4),
                store_size=bool(number & 1),
                block_size=4 + number % 4,
            )
            seeds.append(len(text).to_bytes(4, "little") + frame)
    seeds.append((100).to_bytes(4, "little") + lz4.frame.compress(bytes(50)) * 2)
    seeds.append((100).to_bytes(4, "little") + b"\x50\x2a\x4d\x18\x04\0\0\0abcd" + seeds[0][4:])
    return [seed for seed in seeds if len(seed) <= 20_000]


def mutate_frame(data: bytes, limit: int, chance: random.Random, mutate: Mutate) -> bytes:
    """Change the claimed length, the frame's header, or its bytes."""
    how = chance.randrange(4)
    if how == 0 and len(data) >= 4:
        old = int.from_bytes(data[:4], "little", signed=True)
        return (edge(chance, old) % 2**32).to_bytes(4, "little") + data[4:]
    if how == 1 and len(data) > 12:
        at = chance.randrange(4, min(len(data), 24))
        return data[:at] + bytes([chance.randrange(256)]) + data[at + 1 :]
    if how == 2:
        other = chance.choice(frame_seeds())
        return data[: chance.randrange(4, len(data) + 5)] + other[chance.randrange(4, len(other)) :]
    return data[:4] + mutate(data[4:], limit - 4)


DECOMPRESS = Target(
    name="decompress",
    seeds=frame_seeds,
    check=check_frame,
    mutate=mutate_frame,
    max_nbytes=2**14,
    modules=CODEC,
)
