"""The columns of a message in their one declaration, and the Arrow schema that follows from it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import pyarrow as pa

from mmformat._arrow import Schema, serialize_schema

__all__ = [
    "ALIGNMENT",
    "ARRAYS",
    "BUFFERS",
    "COLUMNS",
    "COMPRESSION_KEY",
    "END_OF_STREAM",
    "REQUEST",
    "SCHEMA",
    "SCHEMA_MESSAGE",
    "VERSION",
    "Column",
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
"""Key for the figures that "auto" based its choices on."""


class Column:
    """Declare an array of the schema; its place follows from the order of the declaration.

    Parameters
    ----------
    name : str
        The field's name.
    kind : {"int32", "int64", "text", "view", "list", "struct"}
        What it holds.
    children : Column
        The element of a list, or the fields of a struct.
    nullable : bool
        Whether a value may be null.
    varies : bool
        Whether its values differ between requests of one structure; the others are compared with
        those of a plan.

    Attributes
    ----------
    node, buffer : int
        Its first field node, and its first buffer, the validity bitmap.
    level : int
        Which of the structure's lengths it has: 0 is the rows', each list begins another.
    null, text : int
        Which of the structure's null counts and text lengths it has; -1 when it has none.
    """

    __slots__ = (
        "buffer",
        "children",
        "kind",
        "level",
        "name",
        "node",
        "null",
        "nullable",
        "text",
        "varies",
    )

    def __init__(
        self,
        name: str,
        kind: str,
        *children: Column,
        nullable: bool = False,
        varies: bool = False,
    ) -> None:
        self.name = name
        self.kind = kind
        self.children = children
        self.nullable = nullable
        self.varies = varies
        self.node = self.buffer = self.level = self.null = self.text = -1

    @property
    def buffers(self) -> int:
        """How many buffers it has, its children's not counted."""
        return {"struct": 1, "text": 3}.get(self.kind, 2)

    @property
    def field(self) -> Any:
        """The Arrow field."""
        return pa.field(self.name, self._type(), nullable=self.nullable)

    def _type(self) -> Any:
        if self.kind == "list":
            return pa.list_(self.children[0].field)
        if self.kind == "struct":
            return pa.struct([child.field for child in self.children])
        return {
            "int32": pa.int32,
            "int64": pa.int64,
            "text": pa.string,
            "view": pa.binary_view,
        }[self.kind]()

    def walk(self) -> Iterator[Column]:
        """Yield the column and its descendants in depth-first order, as Arrow does."""
        yield self
        for child in self.children:
            yield from child.walk()


RANGE: Final = Column(
    "range", "struct", Column("start", "int64", varies=True), Column("end", "int64", varies=True)
)
TENSOR: Final = Column(
    "tensor",
    "struct",
    Column("name", "text"),
    Column("dtype", "text"),
    Column("shape", "list", Column("extent", "int64")),
    Column("encoding", "text"),
    Column("parameters", "text", nullable=True),
    Column("data", "list", Column("chunk", "view", varies=True)),
)
COLUMNS: Final = (
    Column("item", "int32"),
    Column("modality", "text"),
    Column("format", "text", nullable=True),
    Column("hash", "text", nullable=True, varies=True),
    Column("pad_value", "int64", nullable=True, varies=True),
    Column("identity", "text", nullable=True, varies=True),
    Column("offsets", "list", RANGE, nullable=True),
    Column("attributes", "text", nullable=True),
    # Last, so that the tensors' bytes end the body and all columns lie together before them.
    Column("tensors", "list", TENSOR),
)
"""The columns of a message; a row is an item, or what the whole request carries."""


def _placed(columns: tuple[Column, ...]) -> tuple[Column, ...]:
    """Assign nodes, buffers, levels, null counts and texts in depth-first order."""
    arrays = tuple(array for column in columns for array in column.walk())
    buffers = levels = nulls = texts = 0
    for column in columns:
        column.level = 0
    for node, array in enumerate(arrays):
        array.node, array.buffer = node, buffers
        buffers += array.buffers
        if array.kind == "list":
            levels += 1
        for child in array.children:
            child.level = levels if array.kind == "list" else array.level
        if array.nullable:
            array.null, nulls = nulls, nulls + 1
        if array.kind == "text":
            array.text, texts = texts, texts + 1
    return arrays


ARRAYS: Final = _placed(COLUMNS)
"""Every array of the schema in depth-first order."""

BUFFERS: Final = sum(array.buffers for array in ARRAYS)
"""Buffers of the columns; the data buffers follow them, because the view column is the last."""

SCHEMA: Final[Schema] = pa.schema(
    [column.field for column in COLUMNS], metadata={VERSION_KEY: str(VERSION).encode()}
)


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
