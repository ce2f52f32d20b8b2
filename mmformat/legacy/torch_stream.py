"""The stream that torch.save wrote before its zip files, and still writes within each tensor."""

from __future__ import annotations

import re
from typing import Any, Final

from mmformat.errors import DecodeError, TruncatedError
from mmformat.legacy.allowlist import ALLOWED
from mmformat.legacy.nodes import Name, Storage
from mmformat.model.tensors import ITEMSIZE

__all__ = ["MAGIC", "StorageTable", "is_stream", "load"]

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


def load(machine: Any, source: memoryview, path: str) -> Any:
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
