"""Valid golden vectors that no encoder of ours would write so: put together by hand."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from mmformat.codec.compression import Choice, explained, write_compressed_batch
from mmformat.codec.schema import COMPRESSION_KEY, SCHEMA, SCHEMA_MESSAGE
from tests.support.forgery import (
    batch,
    bytes_of,
    encapsulated,
    item,
    message,
    patched,
    schema_message,
    tensor,
)

__all__ = [
    "batches",
    "chunks",
    "explained_choice",
    "foreign",
    "headroom",
    "older_schema",
    "packed_chunks",
]


def packed_chunks(codec: str) -> bytes:
    """Return compressed tensors in chunks: shrunk, stored, inline, empty; and a dictionary's."""
    # A chunk that shrinks, one that does not and is stored, an inline one; and a dictionary.
    ramp = (np.arange(1500) // 30).astype(np.uint8).tobytes()
    noise = bytes_of(700).tobytes()
    parts = [ramp[:1000], noise, noise[:7], b"", ramp[1000:]]
    table = struct.pack("<256f", *range(256))
    parameters = {
        "axis": 0,
        "codes": [1, 1400],
        "entries": 256,
        "repeat": 2,
        "repeat_axis": 0,
        "table_channels": 1,
    }
    none: dict[str, Any] = {"attributes": None, "format": None}
    feature = {"attributes": {"feature": {"$ndarray": "feature"}}}
    rows = [
        item(0, tensor(dtype="uint8", shape=(2207,), data=parts), **none),
        item(
            1,
            tensor(
                shape=(2, 1400),
                data=[table, ramp[:600], noise[:300], ramp[1000:]],
                encoding="dictionary",
                parameters=parameters,
            ),
            **none,
        ),
    ]
    plain = batch(item(0, **feature), item(1, **feature))
    return message(plain, b"".join(write_compressed_batch(rows, codec)))


def explained_choice() -> bytes:
    """Return a message whose schema says why nothing was compressed."""
    choice = Choice(
        item=0,
        name="feature",
        codec="none",
        ratio=1.008,
        link_gbit_s=10,
        plain_ms=0.001,
        lz4_ms=0.002,
    )
    key = {COMPRESSION_KEY: explained([choice])}
    schema = SCHEMA.with_metadata({**SCHEMA.metadata, **key})
    return message(batch(item(0, tensor())), schema=schema_message(schema))


def batches() -> bytes:
    """Return three batches, with continuation rows that are not compressed."""
    first = [item(n, attributes={"feature": {"$ndarray": "feature"}}) for n in range(3)]
    none = {"attributes": None, "format": None}
    return message(
        batch(*first),
        batch(item(0, tensor(), **none), item(2, tensor(shape=(7,)), **none)),
        batch(item(1, tensor(dtype="uint8", shape=(100,)), **none)),
    )


def chunks() -> bytes:
    """Return tensors and codes in chunks of odd sizes, some of them empty."""
    data = bytes(range(200))
    parts = [data[:64], b"", data[64:77], data[77:85], data[85:]]
    codes = [bytes(8), b"\x01" * 20, b"\x00\x01"]
    parameters = {
        "axis": 0,
        "codes": [1, 30],
        "entries": 2,
        "repeat": 1,
        "repeat_axis": 0,
        "table_channels": 1,
    }
    return message(
        batch(
            item(0, tensor(dtype="uint8", shape=(200,), data=parts)),
            item(1, tensor(shape=(0, 3), data=[b"", b""])),
            item(
                2,
                tensor(
                    shape=(30,),
                    data=[struct.pack("<2f", 0.5, -2.0), *codes],
                    encoding="dictionary",
                    parameters=parameters,
                ),
            ),
        )
    )


def foreign() -> bytes:
    """Return a message with another key in the schema's metadata."""
    schema = SCHEMA.with_metadata({**SCHEMA.metadata, b"made.by": b"another writer"})
    return message(batch(item(0, tensor())), schema=schema_message(schema))


def headroom() -> bytes:
    """Return a message with more padding behind the metadata than is needed."""
    # More padding behind the metadata than is needed, as a writer leaves that fills it in later.
    made = batch(item(0, tensor()))
    size = int.from_bytes(made[4:8], "little")
    longer = patched(made, 4, (size + 320).to_bytes(4, "little"))
    return message(longer[: 8 + size] + bytes(320) + longer[8 + size :])


def older_schema(number: int = 3) -> bytes:
    """Return a message whose schema says metadata version V1 (0), V2 (1) and so on."""
    head = SCHEMA_MESSAGE[8:]
    (table,) = struct.unpack_from("<I", head)
    (vtable,) = struct.unpack_from("<i", head, table)
    (version,) = struct.unpack_from("<H", head, table - vtable + 4)  # the table's first field
    older = encapsulated(patched(head, table + version, struct.pack("<h", number)))
    return message(batch(item(0, tensor())), schema=older)
