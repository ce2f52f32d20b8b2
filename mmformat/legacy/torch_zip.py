"""The zip files of torch.save: a pickle and its storages, stored and never compressed."""

from __future__ import annotations

import struct
from typing import Any, Final

from mmformat.errors import DecodeError, TruncatedError
from mmformat.legacy.torch_stream import StorageTable

__all__ = ["is_zip", "load"]

_END: Final = struct.Struct("<4s4H2LH")
_END64: Final = struct.Struct("<4sQ2H2L4Q")
_LOCATOR: Final = struct.Struct("<4sLQL")
_ENTRY: Final = struct.Struct("<4s6H3L5H2L")
_LOCAL: Final = struct.Struct("<4s5H3L2H")
_MOST_ENTRIES: Final = 1_000_000


def is_zip(source: memoryview) -> bool:
    """Say whether the bytes begin as a zip file does."""
    return bytes(source[:4]) == b"PK\x03\x04"


def load(machine: Any, source: memoryview) -> Any:
    """Read a zip of torch.save and return its root value; storages are slices of the file.

    Raises
    ------
    DecodeError, TruncatedError, LimitError, UnsafePickleError
        When it is no such zip, is compressed, or its pickle is refused.

    Notes
    -----
    **Copies**: none.
    """
    try:
        members = _members(source)
    except struct.error:
        raise TruncatedError("expected a whole zip file", path="$") from None
    roots = [name for name in members if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(roots) != 1:
        raise DecodeError("expected one archive/data.pkl, as torch.save writes it", path="$")
    prefix = roots[0].removesuffix("data.pkl")
    order = members.get(f"{prefix}byteorder")
    if order is not None and bytes(order) != b"little":
        raise DecodeError("expected a file of a little-endian machine", path=f"${prefix}byteorder")
    table = StorageTable()
    inner = machine.inner(members[roots[0]], f"$/{roots[0]}", table)
    root, _ = inner.load(0)
    for key, storage in table.storages.items():
        data = members.get(f"{prefix}data/{key}")
        if data is None or data.nbytes != storage.nbytes:
            raise DecodeError(
                f"expected {storage.nbytes:,} bytes of storage {key[:20]!r}, got "
                f"{'none' if data is None else f'{data.nbytes:,}'}",
                path=f"$/{prefix}data",
            )
        storage.data = data
    machine.protocol = inner.protocol
    return root


def _members(source: memoryview) -> dict[str, memoryview]:
    size = len(source)
    tail = bytes(source[max(0, size - 65_557) :])
    found = tail.rfind(b"PK\x05\x06")
    if found < 0:
        raise TruncatedError("expected the end of a zip file", path="$")
    begin = size - len(tail) + found
    _, disk, _, _, count, length, offset, _ = _END.unpack_from(source, begin)
    if disk:
        raise DecodeError("expected a zip of one part", path="$")
    if 0xFFFFFFFF in (length, offset) or count == 0xFFFF:
        signature, _, at, _ = _LOCATOR.unpack_from(source, begin - _LOCATOR.size)
        if signature != b"PK\x06\x07" or at > size:
            raise DecodeError("expected a zip64 locator", path="$")
        signature, *_, count, _, offset = _END64.unpack_from(source, at)
        if signature != b"PK\x06\x06":
            raise DecodeError("expected a zip64 end record", path="$")
    if count > _MOST_ENTRIES or offset > size:
        raise DecodeError("expected a zip directory within the file", path="$")
    members: dict[str, memoryview] = {}
    position = offset
    for _ in range(count):
        name, data, position = _member(source, position)
        if name in members:
            raise DecodeError(f"expected each name once, got {name[:60]!a} twice", path="$")
        members[name] = data
    return members


def _member(source: memoryview, position: int) -> tuple[str, memoryview, int]:
    fields = _ENTRY.unpack_from(source, position)
    signature, flags, method, packed, nbytes = (fields[index] for index in (0, 3, 4, 8, 9))
    name_nbytes, extra_nbytes, comment_nbytes = fields[10:13]
    local = fields[16]
    if signature != b"PK\x01\x02":
        raise DecodeError("expected a zip directory entry", path="$")
    begin = position + _ENTRY.size
    name = bytes(source[begin : begin + name_nbytes]).decode("utf-8", "replace")
    extra = bytes(source[begin + name_nbytes : begin + name_nbytes + extra_nbytes])
    nbytes, packed, local = _wide(extra, nbytes, packed, local)
    if method or packed != nbytes or flags & 1:
        raise DecodeError(
            "expected members that are stored as they are, got a compressed or encrypted one",
            path=f"$/{ascii(name[:60])[1:-1]}",
        )
    head = _LOCAL.unpack_from(source, local)
    if head[0] != b"PK\x03\x04":
        raise DecodeError("expected a zip member", path="$")
    data = local + _LOCAL.size + head[-2] + head[-1]
    if data + nbytes > len(source):
        raise TruncatedError(f"expected {nbytes:,} bytes of a zip member, got the end", path="$")
    after = begin + name_nbytes + extra_nbytes + comment_nbytes
    return name, source[data : data + nbytes], after


def _wide(extra: bytes, nbytes: int, packed: int, local: int) -> tuple[int, int, int]:
    if 0xFFFFFFFF not in (nbytes, packed, local):
        return nbytes, packed, local
    position = 0
    while position + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, position)
        if kind == 1:
            values = iter(struct.unpack_from(f"<{length // 8}Q", extra, position + 4))
            wide = [
                next(values, value) if value == 0xFFFFFFFF else value
                for value in (nbytes, packed, local)
            ]
            return wide[0], wide[1], wide[2]
        position += 4 + length
    return nbytes, packed, local
