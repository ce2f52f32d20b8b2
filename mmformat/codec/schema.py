"""The Arrow schema of version 1, and its message as every stream begins with it."""

from __future__ import annotations

from typing import Final

import pyarrow as pa

from mmformat._arrow import Schema, serialize_schema

__all__ = [
    "ALIGNMENT",
    "COMPRESSION_KEY",
    "END_OF_STREAM",
    "REQUEST",
    "SCHEMA",
    "SCHEMA_MESSAGE",
    "VERSION",
    "schema_message_with",
]

VERSION: Final = 1
"""The schema's version; the library's is another number."""

ALIGNMENT: Final = 64
"""Every tensor begins at a multiple of this many bytes of the message."""

REQUEST: Final = "REQUEST"
"""The modality of the row that belongs to the whole request; its item is -1."""

CONTINUATION: Final = b"\xff\xff\xff\xff"
END_OF_STREAM: Final = CONTINUATION + b"\x00\x00\x00\x00"

VERSION_KEY: Final = b"mmformat.version"

COMPRESSION_KEY: Final = b"mmformat.compression"
"""Why "auto" compressed what it did; readers may show it."""

_TENSOR: Final = pa.struct(
    [
        pa.field("name", pa.string(), nullable=False),
        pa.field("dtype", pa.string(), nullable=False),
        pa.field("shape", pa.list_(pa.field("extent", pa.int64(), nullable=False)), nullable=False),
        pa.field("encoding", pa.string(), nullable=False),
        pa.field("parameters", pa.string()),
        pa.field(
            "data",
            pa.list_(pa.field("chunk", pa.binary_view(), nullable=False)),
            nullable=False,
        ),
    ]
)
_RANGE: Final = pa.struct(
    [
        pa.field("start", pa.int64(), nullable=False),
        pa.field("end", pa.int64(), nullable=False),
    ]
)

SCHEMA: Final[Schema] = pa.schema(
    [
        pa.field("item", pa.int32(), nullable=False),
        pa.field("modality", pa.string(), nullable=False),
        pa.field("format", pa.string()),
        pa.field("hash", pa.string()),
        pa.field("pad_value", pa.int64()),
        pa.field("identity", pa.string()),
        pa.field("offsets", pa.list_(pa.field("range", _RANGE, nullable=False))),
        pa.field("attributes", pa.string()),
        # Last, so that the tensors' bytes end the body and all columns lie together before them.
        pa.field("tensors", pa.list_(pa.field("tensor", _TENSOR, nullable=False)), nullable=False),
    ],
    metadata={VERSION_KEY: str(VERSION).encode()},
)
"""The columns of a message; a row is an item, or what the whole request carries."""


def _padded(message: bytes) -> bytes:
    # The metadata length counts its own padding, so a message can end on any multiple of 8.
    missing = -len(message) % ALIGNMENT
    size = len(message) - 8 + missing
    return CONTINUATION + size.to_bytes(4, "little") + message[8:] + bytes(missing)


SCHEMA_MESSAGE: Final[bytes] = _padded(serialize_schema(SCHEMA))
"""The encapsulated schema message, padded to a multiple of 64 bytes."""


def schema_message_with(key: bytes, value: bytes) -> bytes:
    """Return the encapsulated schema message with one more key in the schema's metadata."""
    return _padded(serialize_schema(SCHEMA.with_metadata({**SCHEMA.metadata, key: value})))
