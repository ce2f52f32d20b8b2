"""The two files of torch.save: the old stream of pickles and raw bytes, and the zip archive."""

from __future__ import annotations

import re
import struct
from typing import Any, Final

from mmformat.errors import DecodeError, TruncatedError
from mmformat.legacy.allowlist import ALLOWED
from mmformat.legacy.nodes import Name, Storage
from mmformat.model.tensors import ITEMSIZE

__all__ = [
    "MAGIC",
    "StorageTable",
    "is_stream",
    "is_zip",
    "load_stream",
    "load_zip",
]

MAGIC: Final = 0x1950A86A20F9469CFC6C
_PROTOCOL: Final = 1001
_START: Final = bytes.fromhex("80028a0a6cfc9c46f9206aa850192e")
_USUAL: Final = _START + bytes.fromhex("80024de9032e")


def is_stream(source: memoryview) -> bool:
    """Say whether the bytes begin as torch's legacy stream does."""
    return bytes(source[: len(_START)]) == _START


# What torch 1.6 to 2.13 write on a 64-bit little-endian machine before the root, and then for the
# storage of one tensor: a root that is that storage, and its key. Any other stream takes the long
# way, and so does one of these that contradicts itself.
_SYSTEM: Final = bytes.fromhex(
    "80027d710028581000000070726f746f636f6c5f76657273696f6e71014de903580d0000006c6974746c655f656e64"
    "69616e710288580a000000747970655f73697a657371037d7104285805000000"
    "73686f727471054b025803000000696e7471064b0458040000006c6f6e6771074b0475752e"
)
_ONE: Final = re.compile(
    rb"\x80\x02\(X\x07\x00\x00\x00storageq\x00ctorch\n([A-Za-z0-9]+)\nq\x01"
    rb"X([\x01-\x14])\x00\x00\x00([0-9]+)q\x02X\x03\x00\x00\x00cpuq\x03"
    rb"(?:K([\x00-\xff])|M([\x00-\xff]{2})|J([\x00-\xff]{4}))Ntq\x04Q\."
    rb"\x80\x02\]q\x00X([\x01-\x14])\x00\x00\x00([0-9]+)q\x01a\."
)


def _usual(source: memoryview, seen: set[str]) -> Storage | None:
    """Return the storage of the form that torch gives a tensor's own stream, or None."""
    head = _USUAL + _SYSTEM
    if bytes(source[: len(head)]) != head:
        return None
    found = _ONE.match(source, len(head))
    if found is None:
        return None
    name, length, key, small, middle, large, length_again, key_again = found.groups()
    count = int.from_bytes(small or middle or large, "little")
    entry = ALLOWED.get(("torch", name.decode("ascii")))
    if entry is None or not entry.kind.startswith("torch-storage:") or key != key_again:
        return None
    dtype = entry.kind.partition(":")[2]
    begin = found.end() + 8
    nbytes = count * ITEMSIZE.get(dtype, 0)
    if (
        not dtype
        or not length[0] == length_again[0] == len(key)
        or count >= 2**31
        or begin + nbytes > len(source)
        or int.from_bytes(source[begin - 8 : begin], "little") != count
    ):
        return None
    seen.add(f"torch.{name.decode('ascii')}")
    return Storage(dtype, count, nbytes, "cpu", source[begin : begin + nbytes])


class StorageTable:
    """Answer the persistent ids of a torch stream with storages, one for each key."""

    __slots__ = ("storages",)

    def __init__(self) -> None:
        self.storages: dict[str, Storage] = {}

    def __call__(self, identifier: Any, path: str) -> Storage:
        """Return the storage that an identifier names.

        Raises
        ------
        DecodeError
            When it is not a torch storage, or contradicts an earlier one.
        """
        match identifier:
            case ("storage", Name(kind="torch-storage") as cls, str() as key, str() as place,
                  int() as count, *rest):  # fmt: skip
                if rest not in ([], [None]) or not 0 <= count < 2**62:
                    raise DecodeError("expected a torch storage without a view", path=path)
            case _:
                raise DecodeError("expected the persistent id of a torch storage", path=path)
        dtype = None if cls.name == "UntypedStorage" else str(cls.value)
        nbytes = count * (1 if dtype is None else ITEMSIZE[dtype])
        found = self.storages.get(key)
        if found is None:
            found = self.storages[key] = Storage(dtype, count, nbytes, place)
        elif (found.dtype, found.numel) != (dtype, count):
            raise DecodeError(f"expected one storage of key {key[:20]!r}, got two", path=path)
        return found


def load_stream(machine: Any, source: memoryview, path: str) -> Any:
    """Read a whole legacy stream and return its root value; storages have their bytes.

    Raises
    ------
    DecodeError, TruncatedError, LimitError, UnsafePickleError
        When the stream is none, ends early, asks for too much, or for something not allowed.

    Notes
    -----
    **Copies**: none; storages are slices of ``source``.
    """
    source = source if source.format == "B" else source.cast("B")
    storage = _usual(source, machine.seen)
    if storage is not None:
        return storage
    table = StorageTable()
    inner = machine.inner(source, f"{path}/torch", table)
    if bytes(source[: len(_USUAL)]) == _USUAL:
        position = len(_USUAL)
    else:
        magic, position = inner.load(0)
        version, position = inner.load(position)
        if magic != MAGIC or version != _PROTOCOL:
            raise DecodeError("expected torch's magic number and protocol 1001", path=path)
    system, position = inner.load(position)
    if type(system) is not dict or system.get("little_endian") is not True:
        raise DecodeError("expected a stream of a little-endian machine", path=path)
    root, position = inner.load(position)
    keys, position = inner.load(position)
    if type(keys) is not list or not all(type(key) is str for key in keys):
        raise DecodeError("expected the keys of the storages", path=path)
    for key in keys:
        storage = table.storages.get(key)
        if storage is None or storage.data is not None:
            raise DecodeError(f"expected a storage of key {key[:20]!r}", path=path)
        begin = position + 8
        end = begin + storage.nbytes
        if end > len(source):
            raise TruncatedError(
                f"expected {storage.nbytes:,} bytes of storage, got the end", path=path
            )
        count = int.from_bytes(source[position:begin], "little")
        if count != storage.numel:
            raise DecodeError(
                f"expected a storage of {storage.numel:,} elements, got {count:,}", path=path
            )
        storage.data = source[begin:end]
        position = end
    for storage in table.storages.values():
        if storage.data is None:
            raise DecodeError("expected the bytes of every storage", path=path)
    return root


_END: Final = struct.Struct("<4s4H2LH")
_END64: Final = struct.Struct("<4sQ2H2L4Q")
_LOCATOR: Final = struct.Struct("<4sLQL")
_ENTRY: Final = struct.Struct("<4s6H3L5H2L")
_LOCAL: Final = struct.Struct("<4s5H3L2H")
_MOST_ENTRIES: Final = 1_000_000


def is_zip(source: memoryview) -> bool:
    """Say whether the bytes begin as a zip file does."""
    return bytes(source[:4]) == b"PK\x03\x04"


def load_zip(machine: Any, source: memoryview) -> Any:
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
