"""The value that names a message on another host, and the ticket that asks for its bytes."""

from __future__ import annotations

import re
import struct
import zlib
from dataclasses import dataclass
from typing import Final

from mmformat.errors import TransportError
from mmformat.shm.handle import check_name

__all__ = ["CHUNK_NBYTES", "MAX_STREAMS", "Key", "RemoteHandle", "Ticket", "check_location"]

CHUNK_NBYTES: Final = 2 * 2**20
"""Bytes of one Flight message. On loopback 2 MiB was fastest: 1 MiB 25 % and 8 MiB 38 % slower."""

MAX_STREAMS: Final = 16
"""How many streams one transfer may have."""

DIGEST_NBYTES: Final = 32
_MAX_NBYTES: Final = 512
_LOCATION: Final = re.compile(
    r"grpc(?:\+tls)?://(?:[A-Za-z0-9._-]{1,128}|\[[0-9A-Fa-f:.]{2,45}\]):(\d{1,5})"
)

# magic, version, bytes of the location and of the name, segment, slot, generation, nbytes, digest
_HANDLE: Final = struct.Struct("<4sHBB16sIQQ32s")
_CRC: Final = struct.Struct("<I")
_HANDLE_MAGIC: Final = b"mmfr"

# magic, version, streams, this stream, segment, slot, generation, mirror, first chunk
_TICKET: Final = struct.Struct("<4sHBB16sIQ16sQ")
_TICKET_MAGIC: Final = b"mmft"
_VERSION: Final = 1

Key = tuple[bytes, int, int]
"""A slot's content: segment, slot, generation."""


def check_location(location: object) -> str:
    """Return a Flight location of a host and a port.

    Raises
    ------
    TransportError
        With code ``net-handle``.
    """
    found = _LOCATION.fullmatch(location) if isinstance(location, str) else None
    if found is None or not 0 < int(found[1]) < 2**16:
        raise _broken(f"the location must be like 'grpc+tls://host:port', got {location!r:.80}")
    return str(location)


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteHandle:
    """Name a message in the arena of another host.

    Parameters
    ----------
    location : str
        Where its publisher listens: ``grpc+tls://host:port``, or ``grpc://host:port``.
    arena : str
        The name of the publisher's arena.
    segment_id, slot, generation : bytes, int, int
        Which content of which slot, as in the local :class:`mmformat.shm.Handle`.
    nbytes : int
        Bytes of the message.
    digest : bytes
        BLAKE3 of these bytes.

    Notes
    -----
    ``bytes(remote)`` is under 512 bytes. It is a value: any number of copies may travel, to any
    number of hosts. It grants nothing: the publisher decides who may fetch.

    Examples
    --------
    >>> remote = RemoteHandle(location="grpc://127.0.0.1:4711", arena="mmf-demo",
    ...     segment_id=bytes(16), slot=0, generation=1, nbytes=10, digest=bytes(32))
    >>> RemoteHandle.from_bytes(bytes(remote)) == remote, len(bytes(remote))
    (True, 109)
    """

    location: str
    arena: str
    segment_id: bytes
    slot: int
    generation: int
    nbytes: int
    digest: bytes

    @property
    def key(self) -> Key:
        """Which content of which slot, whatever the publisher's address."""
        return (self.segment_id, self.slot, self.generation)

    def __bytes__(self) -> bytes:
        location, name = self.location.encode(), self.arena.encode()
        head = _HANDLE.pack(
            _HANDLE_MAGIC,
            _VERSION,
            len(location),
            len(name),
            self.segment_id,
            self.slot,
            self.generation,
            self.nbytes,
            self.digest,
        )
        body = head + location + name
        return body + _CRC.pack(zlib.crc32(body))

    @classmethod
    def of(cls, value: RemoteHandle | bytes) -> RemoteHandle:
        """Return the handle itself, or the one that these bytes are.

        Raises
        ------
        TransportError
            As :meth:`from_bytes`.
        """
        return value if isinstance(value, cls) else cls.from_bytes(value)  # type: ignore[arg-type]

    @classmethod
    def from_bytes(cls, data: bytes | memoryview) -> RemoteHandle:
        """Read a remote handle, trusting no bit of it.

        Raises
        ------
        TransportError
            With code ``net-handle``, ``net-handle-version`` for a newer version, or
            ``segment-name``.
        """
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise _broken(f"a remote handle must be bytes, got {type(data).__name__}")
        raw = bytes(data[: _MAX_NBYTES + 1])
        if not _HANDLE.size + _CRC.size < len(raw) < _MAX_NBYTES:
            raise _broken(f"a remote handle has under {_MAX_NBYTES} bytes, got {len(data):,}")
        magic, version, at, named, segment, slot, generation, nbytes, digest = _HANDLE.unpack_from(
            raw
        )
        if magic != _HANDLE_MAGIC:
            raise _broken(f"a remote handle begins with {_HANDLE_MAGIC!r}, got {magic!r}")
        if version != _VERSION:
            raise TransportError(
                f"remote handle version must be {_VERSION}, got {version}",
                code="net-handle-version",
                hint="the publisher is newer: upgrade this host",
            )
        if len(raw) != _HANDLE.size + at + named + _CRC.size:
            raise _broken("a remote handle has another length than it says")
        if _CRC.unpack_from(raw, len(raw) - _CRC.size)[0] != zlib.crc32(raw[: -_CRC.size]):
            raise _broken("a remote handle does not match its checksum")
        if generation < 1 or nbytes < 1:
            raise _broken("a remote handle must name a sealed slot")
        split = _HANDLE.size + at
        return cls(
            location=check_location(raw[_HANDLE.size : split].decode("ascii", "replace")),
            arena=check_name(raw[split : split + named].decode("ascii", "replace")),
            segment_id=segment,
            slot=slot,
            generation=generation,
            nbytes=nbytes,
            digest=digest,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticket:
    """Ask for the chunks ``first``, ``first + streams``, ... of a message.

    Parameters
    ----------
    segment_id, slot, generation : bytes, int, int
        As in the remote handle.
    mirror : bytes
        16 bytes that the mirror chose at its start: the lease is theirs.
    streams : int
        How many streams share the message.
    first : int
        The chunk to begin with, of :data:`CHUNK_NBYTES` each.

    Notes
    -----
    The same bytes, with any ``streams`` and ``first``, name a lease in the actions.
    """

    segment_id: bytes
    slot: int
    generation: int
    mirror: bytes
    streams: int = 1
    first: int = 0

    @property
    def key(self) -> Key:
        """As :attr:`RemoteHandle.key`."""
        return (self.segment_id, self.slot, self.generation)

    def __bytes__(self) -> bytes:
        return _TICKET.pack(
            _TICKET_MAGIC,
            _VERSION,
            self.streams,
            0,
            self.segment_id,
            self.slot,
            self.generation,
            self.mirror,
            self.first,
        )

    @classmethod
    def from_bytes(cls, data: bytes | memoryview) -> Ticket:
        """Read a ticket, trusting no bit of it.

        Raises
        ------
        TransportError
            With code ``net-ticket``.
        """
        if len(data) != _TICKET.size:
            raise _no_ticket(f"a ticket has {_TICKET.size} bytes, got {len(data):,}")
        magic, version, streams, zero, segment, slot, generation, mirror, first = _TICKET.unpack(
            data
        )
        if (magic, version, zero) != (_TICKET_MAGIC, _VERSION, 0):
            raise _no_ticket(f"a ticket has version {_VERSION}, got {magic!r} and {version}")
        if not 1 <= streams <= MAX_STREAMS:
            raise _no_ticket(f"a ticket has 1 to {MAX_STREAMS} streams, got {streams}")
        return cls(
            segment_id=segment,
            slot=slot,
            generation=generation,
            mirror=mirror,
            streams=streams,
            first=first,
        )


def _broken(message: str) -> TransportError:
    return TransportError(message, code="net-handle")


def _no_ticket(message: str) -> TransportError:
    return TransportError(message, code="net-ticket")
