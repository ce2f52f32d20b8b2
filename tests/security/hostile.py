"""Small messages that become as much as the limits allow, and a little more."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from mmformat.codec.columns import Row, TensorEntry
from mmformat.model import Limits
from tests.support.forgery import batch, item, message, tensor

__all__ = ["LIMITS", "bombs"]

MIB = 2**20
LIMITS = Limits(
    message_nbytes=4 * MIB,
    decompressed_nbytes=4 * MIB,
    tensor_nbytes=4 * MIB,
    metadata_nbytes=4 * MIB,
    attributes_nbytes=MIB // 4,
    items=1000,
    tensors=5_000,
)


def bombs() -> Iterator[tuple[str, bytes]]:
    """Yield a name and a message; one whose name begins with ``over`` passes a limit."""
    for name, part in {
        "empty lists": "[]",
        "empty objects": "{}",
        "floats": "0.5",
        "lists of one": "[1]",
        "objects of one": '{"":1}',
        "big integers": '{"$int":"9007199254740993"}',
        "tuples": '{"$tuple":[]}',
        "bytes": '{"$bytes":""}',
        "text": '"\U0001f600"',
    }.items():
        yield f"attributes, {name}", _attributes(part)
    yield "over: attributes", _attributes("[]", MIB // 4 + 64)
    yield "codes, expanded to the limit", _dictionary(repeat=MIB // 4 * 4)
    yield "over: codes, expanded", _dictionary(repeat=MIB + 1)
    zeros = tensor(dtype="uint8", shape=(4 * MIB - 64 * 1024,), data=[bytes(4 * MIB - 64 * 1024)])
    yield "zeros, compressed", message(batch(item(0, zeros), compressed=True))
    more = tensor(dtype="uint8", shape=(4 * MIB + 1,), data=[bytes(4 * MIB + 1)])
    yield "over: zeros, compressed", message(batch(item(0, more), compressed=True))
    yield "items", message(batch(*[item(at) for at in range(1000)]))
    yield "over: items", message(batch(*[item(at) for at in range(1001)]))
    none = [tensor(str(at), "uint8", (0,), data=[]) for at in range(5_000)]
    yield "tensors", message(batch(_of_all(*none)))
    yield "over: tensors", message(batch(_of_all(*none, tensor("x", "uint8", (0,), data=[]))))


def _of_all(*tensors: TensorEntry) -> Row:
    values = {entry.name: {"$ndarray": entry.name} for entry in tensors}
    return item(0, *tensors, attributes={"model_specific_data": values})


def _attributes(part: str, nbytes: int = MIB // 4 - 64) -> bytes:
    parts = ",".join([part] * ((nbytes - 64) // (len(part.encode()) + 1)))
    return message(batch(item(0, attributes='{"model_specific_data":{"a":[' + parts + "]}}")))


def _dictionary(*, repeat: int) -> bytes:
    """One code of a float32 table, repeated."""
    parameters = {
        "axis": 0,
        "codes": [1],
        "entries": 1,
        "repeat": repeat,
        "repeat_axis": 0,
        "table_channels": 1,
    }
    entry = tensor(
        shape=(repeat,),
        data=[struct.pack("<f", 1.5), b"\0"],
        encoding="dictionary",
        parameters=parameters,
    )
    row: Row = item(0, entry)
    return message(batch(row))
