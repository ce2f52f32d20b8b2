"""Any bytes as a remote handle, a ticket or an action: nothing opens but what was announced."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Sequence
from functools import cache

import mmformat as mm
from mmformat.errors import MMFormatError, StaleHandleError, TransportError
from mmformat.net import Publisher, RemoteHandle
from mmformat.net.remote_handle import Ticket
from mmformat.net.wire import ACK, HOLD, unpack_probe
from tests.fuzz.target import EDGES, Mutate, Target, expect

__all__ = ["REMOTE", "TICKET"]

NET = ("mmformat/net",)


@cache
def _announced() -> tuple[mm.Arena, Publisher, RemoteHandle, Ticket]:
    arena = mm.Arena.create(nbytes=2**16, ranks=1, slots=4, backing="memfd")
    publisher = Publisher(arena, ttl_s=1e9)
    arena.put(mm.MultimodalInputs(request_data={"secret": 1}))
    remote = publisher.publish(mm.MultimodalInputs(request_data={"a": 1}), hosts=2**30)
    ticket = Ticket(
        segment_id=remote.segment_id,
        slot=remote.slot,
        generation=remote.generation,
        mirror=bytes(16),
    )
    return arena, publisher, remote, ticket


def check_remote(data: bytes) -> None:
    """Read a remote handle; what is read is written the same, and is small."""
    try:
        remote = RemoteHandle.from_bytes(data)
    except TransportError:
        return
    expect(bytes(remote) == data, "a remote handle has two spellings")
    expect(len(data) < 512 and remote.nbytes > 0, "a remote handle beyond its bounds")


def check_ticket(data: bytes) -> None:
    """Ask a publisher with any ticket, in every way: only the announced slot answers."""
    _, publisher, remote, _ = _announced()
    try:
        ticket = Ticket.from_bytes(data)
        expect(bytes(ticket) == data, "a ticket has two spellings")
        is_known = ticket.key == remote.key
    except TransportError:
        is_known = False
    for kind in (ACK, HOLD, "mmformat.echo", data[:8].decode("latin-1")):
        try:
            publisher._act(kind, memoryview(data))
        except StaleHandleError:
            expect(not is_known, "what was announced is stale")
        except TransportError:
            continue
    try:
        opened = publisher._get(data)
        expect(is_known or unpack_probe(data), "a ticket opened what was not announced")
        if is_known:
            next(opened)
    except MMFormatError:
        return
    except Exception as error:  # Flight's error, that the other host is told
        expect(is_known and ticket.first, f"the announced slot did not answer: {error}")


def remotes() -> Sequence[bytes]:
    """Return remote handles of every form."""
    _, _, remote, _ = _announced()
    fields = {name: getattr(remote, name) for name in RemoteHandle.__slots__}
    long = fields | {"location": f"grpc+tls://[{'f' * 40}]:65535", "arena": f"mmf-{'a' * 96}"}
    return [bytes(remote), bytes(RemoteHandle(**long))]


def tickets() -> Sequence[bytes]:
    """Return tickets of every form."""
    _, _, _, ticket = _announced()
    return [bytes(ticket), bytes(ticket)[:-8] + b"\1" + bytes(7), b"mmfp" + struct.pack("<Q", 9)]


def change(data: bytes, max_nbytes: int, chance: random.Random, mutate: Mutate) -> bytes:
    """Set a field to a number at which arithmetic goes wrong, or any bytes; mend the checksum."""
    changed = bytearray(data)
    if chance.random() < 0.5 and len(changed) > 16:
        code, width = chance.choice((("<B", 1), ("<H", 2), ("<I", 4), ("<Q", 8)))
        at = chance.randrange(4, len(changed) - width)
        struct.pack_into(code, changed, at, chance.choice(EDGES) % 2 ** (8 * width))
    else:
        changed = bytearray(mutate(bytes(changed), max_nbytes))
    if changed.startswith(b"mmfr") and chance.random() < 0.8 and len(changed) > 8:
        changed[-4:] = struct.pack("<I", zlib.crc32(changed[:-4]))
    return bytes(changed[:max_nbytes])


REMOTE = Target(
    name="remote",
    seeds=remotes,
    check=check_remote,
    mutate=change,
    max_nbytes=520,
    modules=NET,
)
TICKET = Target(
    name="ticket",
    seeds=tickets,
    check=check_ticket,
    mutate=change,
    max_nbytes=128,
    modules=NET,
)
