"""Any bytes as a handle, and any bytes as a segment: a rank refuses them or reads inside them."""

from __future__ import annotations

import os
import random
import struct
import tempfile
import zlib
from functools import cache
from pathlib import Path

from mmformat.errors import TransportError
from mmformat.shm import Handle, ShmArena, ShmReader
from mmformat.shm.layout import HEADER_NBYTES, PAGE, STATE_WORD
from mmformat.shm.liveness import PRODUCER_BYTE, try_lock
from mmformat.shm.sweep import list_segments, sweep
from tests.fuzz.target import EDGES, Mutate, Target, expect

__all__ = ["HANDLE", "SEGMENT"]

SHM = ("mmformat/shm",)
_FIELDS = struct.Struct("<4sHH16sIQQQQ")
_PAGES_AT_MOST = 64
_HEAD = struct.Struct("<HBBH")  # pages, reader, options, bytes of the handle


@cache
def _arena() -> tuple[ShmArena, ShmReader, dict[bytes, bytes]]:
    arena = ShmArena.create(nbytes=2 * PAGE, ranks=2, slots=4, backing="memfd")
    reader = ShmReader.attach_fd(arena._segment.fd, rank=0)
    kept = {}
    for text in (b"hello", bytes(range(256))):
        slot = arena.reserve(len(text))
        slot.view[:] = text
        kept[bytes(slot.seal())] = text
    return arena, reader, kept


def check_handle(data: bytes) -> None:
    """Read a handle, and the slot that it names: only what was sealed and granted opens one."""
    _, reader, kept = _arena()
    try:
        handle = Handle.from_bytes(data)
    except TransportError:
        return
    expect(bytes(handle) == data, "a handle has two spellings")
    try:
        mapping = reader.map(handle)
    except TransportError:  # a stale handle's error is one too
        return
    values = bytes(mapping)
    for sealed, text in kept.items():
        there = Handle.from_bytes(sealed)
        if (there.slot, there.generation, there.offset) == (
            handle.slot,
            handle.generation,
            handle.offset,
        ):
            expect(values == text, "other bytes than were sealed")
            reader._mappings.discard(mapping)
            # Kept, or the slot would be released and no later handle could open it.
            _KEPT[handle.slot] = mapping
            return
    raise AssertionError("a handle that nobody made opens a slot")


_KEPT: dict[int, object] = {}


def handle_seeds() -> list[bytes]:
    """Return the handles of a living arena."""
    return [*_arena()[2], b"", b"mmfh"]


def mutate_handle(data: bytes, limit: int, chance: random.Random, mutate: Mutate) -> bytes:
    """Change one field and make the checksum right again, or just bytes."""
    seeds = list(_arena()[2])
    if len(data) <= _FIELDS.size + 4 or chance.random() < 0.1:
        data = chance.choice(seeds)
    if chance.random() < 0.2:
        return mutate(data, limit)
    fields = list(_FIELDS.unpack_from(data))
    name = data[_FIELDS.size : -4]
    at = chance.randrange(1, len(fields) + 1)
    if at == len(fields):
        name = mutate(name, 160)
        fields[2] = len(name)
    elif at == 3:
        fields[3] = chance.choice((mutate(fields[3], 16).ljust(16, b"\0")[:16], seeds[0][8:24]))
    else:
        bits = 16 if at < 3 else 32 if at == 4 else 64
        near = fields[at] + chance.choice((-PAGE, -1, 1, PAGE))
        fields[at] = chance.choice((chance.choice(EDGES), near)) % 2**bits
    body = _FIELDS.pack(*fields) + name
    return (body + struct.pack("<I", zlib.crc32(body)))[:limit]


# ---- segments ------------------------------------------------------------------------------------


def check_segment(data: bytes) -> None:
    """Attach to these bytes as a rank whose producer lives, and use whatever a handle opens."""
    if len(data) < _HEAD.size:
        return
    pages, number, options, handle_nbytes = _HEAD.unpack_from(data)
    handle_data = data[_HEAD.size : _HEAD.size + handle_nbytes]
    content = data[_HEAD.size + len(handle_data) :]
    fd = os.memfd_create("fuzz", os.MFD_CLOEXEC)
    lock_fd = os.open(f"/proc/self/fd/{fd}", os.O_RDWR | os.O_CLOEXEC)
    try:
        os.fchmod(fd, 0o600)
        os.pwrite(fd, content, 0)
        os.ftruncate(fd, pages % _PAGES_AT_MOST * PAGE + (7 if options & 1 else 0))
        try_lock(lock_fd, PRODUCER_BYTE)
        _attach(fd, number, handle_data)
    finally:
        os.close(lock_fd)
        os.close(fd)
    if options & 14 == 14:
        _list(content)


def _attach(fd: int, number: int, handle_data: bytes) -> None:
    try:
        handle = Handle.from_bytes(handle_data)
    except TransportError:
        handle = None
    try:
        reader = ShmReader.attach_fd(fd, rank=number)
    except TransportError:
        return
    with reader:
        if handle is None:
            return
        try:
            mapping = reader.map(handle)
        except TransportError:
            return
        nbytes = os.fstat(fd).st_size
        expect(0 < handle.offset <= nbytes - handle.nbytes, "a slot outside its segment")
        expect(bytes(mapping) == os.pread(fd, handle.nbytes, handle.offset), "other bytes")
        mapping[:1] = b"\0"  # ours alone
        del mapping
        for use in (reader.release, reader.hold):
            try:
                use(handle)
            except TransportError:
                continue


@cache
def _folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="fuzz-segments-"))


def _list(content: bytes) -> None:
    path = _folder() / "mmf-fuzz"
    path.write_bytes(content)
    path.chmod(0o600)
    found = list_segments(_folder())
    expect([info.name for info in found] == ["mmf-fuzz"], "a file that is not listed")
    expect(sweep(_folder()) == ["mmf-fuzz"], "a dead file that is not swept")


def segment_seeds() -> list[bytes]:
    """Return segments as a producer leaves them: fresh, sealed, attached, released."""
    seeds = []
    for readers, slots in ((1, 1), (2, 4), (3, 520)):
        with ShmArena.create(nbytes=2 * PAGE, ranks=readers, slots=slots, backing="memfd") as arena:
            seeds.append(_seed(arena, b""))
            with ShmReader.attach_fd(arena._segment.fd, rank=0) as reader:
                slot = arena.reserve(100)
                slot.view[:] = bytes(range(100))
                handle = slot.seal()
                seeds.append(_seed(arena, bytes(handle)))
                reader.release(handle)
                seeds.append(_seed(arena, bytes(handle)))
            seeds.append(_seed(arena, bytes(handle)))
    return seeds


def _seed(arena: ShmArena, handle: bytes, options: int = 0) -> bytes:
    fd = arena._segment.fd
    nbytes = os.fstat(fd).st_size
    content = os.pread(fd, nbytes, 0).rstrip(b"\0")
    return _HEAD.pack(nbytes // PAGE, 0, options, len(handle)) + handle + content


_LAYOUT = struct.Struct("<8sIIIIQQQQ16s16s")


def mutate_segment(data: bytes, limit: int, chance: random.Random, mutate: Mutate) -> bytes:
    """Change the header, a record's or a row's word, the handle, or the file's size."""
    if len(data) < _HEAD.size + HEADER_NBYTES:
        return mutate(data, limit)
    pages, number, options, handle_nbytes = _HEAD.unpack_from(data)
    handle = data[_HEAD.size : _HEAD.size + handle_nbytes]
    content = bytearray(data[_HEAD.size + len(handle) :])
    how = chance.randrange(6)
    if how == 0:
        pages = chance.choice((pages + 1, pages - 1, chance.randrange(_PAGES_AT_MOST))) % 2**16
        number = chance.choice((0, 0, 1, 2, 63, 64, 255))
        options = chance.choice((0, 1, 14, options))
    elif how == 1 and len(handle) > _FIELDS.size + 4:
        handle = mutate_handle(handle, 256, chance, mutate)
    elif how == 2 and len(content) >= HEADER_NBYTES:
        fields = list(_LAYOUT.unpack_from(content))
        at = chance.choice((1, 2, 3, 3, 4, 4, 5, 5, 6, 7))
        bits = 32 if at < 5 else 64
        near = fields[at] + chance.choice((-PAGE, -1, 1, PAGE))
        fields[at] = chance.choice((chance.choice(EDGES), near)) % 2**bits
        packed = _LAYOUT.pack(*fields)
        content[:HEADER_NBYTES] = packed + struct.pack("<I", zlib.crc32(packed))
    elif how in (3, 4) and len(content) >= 16:
        word = chance.choice((STATE_WORD, *[chance.randrange(len(content) // 8)] * 4))
        word = min(word, len(content) // 8 - 1)
        old = int.from_bytes(content[8 * word : 8 * word + 8], "little")
        new = chance.choice((chance.choice(EDGES), old + 1, old - 1)) % 2**64
        content[8 * word : 8 * word + 8] = new.to_bytes(8, "little")
    else:
        content = bytearray(mutate(bytes(content), limit))
    made = _HEAD.pack(pages, number, options, len(handle)) + handle + bytes(content)
    return made[:limit]


HANDLE = Target(
    name="handle",
    seeds=handle_seeds,
    check=check_handle,
    mutate=mutate_handle,
    max_nbytes=512,
    modules=SHM,
)
SEGMENT = Target(
    name="segment",
    seeds=segment_seeds,
    check=check_segment,
    mutate=mutate_segment,
    max_nbytes=2**16,
    modules=SHM,
)
