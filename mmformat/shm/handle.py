"""The small value that crosses the engine in place of the bytes."""

from __future__ import annotations

import re
import struct
import zlib
from dataclasses import dataclass
from typing import Final

from mmformat.errors import TransportError

__all__ = ["NAME_PATTERN", "Handle", "check_name"]

NAME_PATTERN: Final = re.compile(r"mmf-[A-Za-z0-9-]{1,96}")
_MAGIC: Final = b"mmfh"
_VERSION: Final = 1
_COMPOSED_VERSION: Final = 2
# magic, version, length of the name, segment id, slot, generation, offset, nbytes, holders
_FIXED: Final = struct.Struct("<4sHH16sIQQQQ")
_CRC: Final = struct.Struct("<I")


def check_name(name: object) -> str:
    """Return a segment's name when it is one that cannot leave its directory.

    Raises
    ------
    TransportError
        With code ``segment-name``.
    """
    if not isinstance(name, str) or NAME_PATTERN.fullmatch(name) is None:
        raise TransportError(
            f"expected a segment name such as 'mmf-0-1234-5678-9abc', got {name!r}",
            code="segment-name",
        )
    return name


@dataclass(frozen=True, slots=True, kw_only=True)
class Handle:
    """Name a sealed slot: which segment, which slot, which generation, where and how long.

    Parameters
    ----------
    name : str
        Name of the segment in its directory.
    segment_id : bytes
        16 random bytes that tell two segments of one name apart.
    slot, generation : int
        The record, and the how-manieth content it has.
    offset, nbytes : int
        Where the bytes lie in the segment.
    holders : int
        The readers that this handle was granted to, as a set of bits.
    composed : bool
        Whether the slot holds no message but the handles of one: a reader of a library that does
        not know of these refuses the handle by its version.

    Notes
    -----
    ``bytes(handle)`` is under 256 bytes. A handle is a value: any number of copies may travel.

    Examples
    --------
    >>> handle = Handle(name="mmf-demo", segment_id=bytes(16), slot=0, generation=1, offset=4096,
    ...     nbytes=10, holders=1)
    >>> Handle.from_bytes(bytes(handle)) == handle
    True
    """

    name: str
    segment_id: bytes
    slot: int
    generation: int
    offset: int
    nbytes: int
    holders: int
    composed: bool = False

    def __bytes__(self) -> bytes:
        name = self.name.encode()
        body = (
            _FIXED.pack(
                _MAGIC,
                _COMPOSED_VERSION if self.composed else _VERSION,
                len(name),
                self.segment_id,
                self.slot,
                self.generation,
                self.offset,
                self.nbytes,
                self.holders,
            )
            + name
        )
        return body + _CRC.pack(zlib.crc32(body))

    @classmethod
    def from_bytes(cls, data: bytes | memoryview) -> Handle:
        """Read a handle, trusting no bit of it.

        Raises
        ------
        TransportError
            With code ``handle`` when the bytes are no handle, ``handle-version`` when they are of
            a newer version, or ``segment-name``.
        """
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise TransportError(
                f"expected the bytes of a handle, got {type(data).__name__}", code="handle"
            )
        raw = bytes(data[:257])
        if not _FIXED.size + _CRC.size < len(raw) <= 256:
            raise TransportError(
                f"expected a handle of at most 256 bytes, got {len(data):,}", code="handle"
            )
        magic, version, name_nbytes, segment, slot, generation, offset, nbytes, holders = (
            _FIXED.unpack_from(raw)
        )
        if magic != _MAGIC:
            raise TransportError(f"expected the magic {_MAGIC!r}, got {magic!r}", code="handle")
        if version not in (_VERSION, _COMPOSED_VERSION):
            raise TransportError(
                f"expected handle version {_VERSION} or {_COMPOSED_VERSION}, got {version}",
                code="handle-version",
            )
        if len(raw) != _FIXED.size + name_nbytes + _CRC.size:
            raise TransportError("expected a handle of another length", code="handle")
        if _CRC.unpack_from(raw, len(raw) - _CRC.size)[0] != zlib.crc32(raw[: -_CRC.size]):
            raise TransportError("expected a handle that matches its checksum", code="handle")
        if generation < 1 or nbytes < 1:
            raise TransportError("expected a handle of a sealed slot", code="handle")
        name = check_name(raw[_FIXED.size : -_CRC.size].decode("ascii", "replace"))
        return cls(
            name=name,
            segment_id=segment,
            slot=slot,
            generation=generation,
            offset=offset,
            nbytes=nbytes,
            holders=holders,
            composed=version == _COMPOSED_VERSION,
        )
