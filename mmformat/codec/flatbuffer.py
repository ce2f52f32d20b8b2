"""Arrow's record batch metadata, written and read as the flatbuffer that it is."""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from mmformat.codec.caching import cached_when_small
from mmformat.errors import DecodeError, TruncatedError

__all__ = ["BatchMetadata", "read_batch_metadata", "read_header_type", "write_batch_metadata"]

RECORD_BATCH: Final = 3
SCHEMA_HEADER: Final = 1
_V5: Final = 4
_NODES_AT: Final = 88

CODECS: Final = {0: "lz4", 1: "zstd"}
"""Arrow's CompressionType."""

_BODY_AT: Final = {"lz4": 4, "zstd": 8}

CACHED_NBYTES: Final = 16 * 2**10
"""Metadata of at most this many bytes are remembered."""

# One fixed arrangement of Message.fbs and its RecordBatch: root offset, Message's vtable and
# table, RecordBatch's vtable and table, then the vectors. "<" is right: flatbuffers are
# little-endian. The offsets in the comments are those of the bytes that follow.
_HEAD: Final = struct.Struct(
    "<I"  # 0: offset of the root table (16)
    "6H"  # 4: vtable of Message: its size, the table's, then version, type, header, body length
    "iIqhBx"  # 16: Message: back to its vtable, header at, body length, version, header type
    "7H6x"  # 36: vtable of RecordBatch: sizes, length, nodes, buffers, compression, variadic
    "iIqIII"  # 56: RecordBatch: back to its vtable, nodes, length, buffers, compression, variadic
)


class BatchMetadata(NamedTuple):
    """Hold what a record batch's metadata says, each pair flat in one tuple.

    Parameters
    ----------
    length : int
        Rows.
    body_nbytes : int
        Bytes of the body.
    nodes : tuple of int
        Length and null count of each column in depth-first order.
    buffers : tuple of int
        Offset and length of each buffer in the body.
    codec : {"lz4", "zstd"} or None
        Of what codec each buffer is a frame, behind its uncompressed length.
    variadic : tuple of int
        Data buffers of each view column.
    """

    length: int
    body_nbytes: int
    nodes: tuple[int, ...]
    buffers: tuple[int, ...]
    codec: str | None
    variadic: tuple[int, ...]

    @property
    def compressed(self) -> bool:
        """Whether the buffers are frames of a codec."""
        return self.codec is not None


def write_batch_metadata(metadata: BatchMetadata) -> bytes:
    """Return the flatbuffer ``Message`` of a record batch (Arrow format, Message.fbs)."""
    nodes_nbytes = 8 * len(metadata.nodes)
    buffers_nbytes = 8 * len(metadata.buffers)
    buffers_at = _NODES_AT + nodes_nbytes + 8
    variadic_at = buffers_at + buffers_nbytes + 8
    end = variadic_at + 8 * len(metadata.variadic)
    # An offset counts from where it stands to the vector's length, 4 bytes before its elements.
    head = _HEAD.pack(
        16,
        *(12, 20, 16, 18, 4, 8),
        *(12, 56 - 20, metadata.body_nbytes, _V5, RECORD_BATCH),
        *(14, 28, 8, 4, 16, 20 if metadata.compressed else 0, 24),
        20,
        _NODES_AT - 4 - 60,
        metadata.length,
        buffers_at - 4 - 72,
        end + _BODY_AT[metadata.codec] - 76 if metadata.codec else 0,
        variadic_at - 4 - 80,
    )
    parts = [
        head,
        struct.pack(f"<I{len(metadata.nodes)}q", len(metadata.nodes) // 2, *metadata.nodes),
        struct.pack(f"<4xI{len(metadata.buffers)}q", len(metadata.buffers) // 2, *metadata.buffers),
        struct.pack(f"<4xI{len(metadata.variadic)}q", len(metadata.variadic), *metadata.variadic),
    ]
    if metadata.codec == "lz4":
        # BodyCompression with both fields at their defaults: LZ4_FRAME, BUFFER.
        parts.append(struct.pack("<HHi", 4, 4, 4))
    elif metadata.codec == "zstd":
        parts.append(struct.pack("<HHHxxib", 6, 5, 4, 8, 1))
    return b"".join(parts)


def read_header_type(metadata: bytes) -> int:
    """Return which message the flatbuffer holds: 1 a schema, 3 a record batch."""
    table = _Table(metadata, _unsigned(metadata, 0))
    return table.scalar(1, "<B", 0)


def _nbytes(metadata: bytes) -> int:
    return len(metadata)


@cached_when_small(_nbytes, limit=CACHED_NBYTES)
def read_batch_metadata(metadata: bytes) -> BatchMetadata:
    """Read a record batch's flatbuffer, whoever wrote it.

    Raises
    ------
    DecodeError
        When it is no record batch that this format allows.
    TruncatedError
        When an offset points out of the metadata.
    """
    message = _Table(metadata, _unsigned(metadata, 0))
    if message.scalar(0, "<h", 0) != _V5:
        raise DecodeError("expected Arrow metadata version V5", code="metadata-version")
    kind = message.scalar(1, "<B", 0)
    if kind != RECORD_BATCH:
        raise DecodeError(f"expected a record batch, got message type {kind}", code="message-type")
    if message.has(4):
        raise DecodeError("expected a batch without custom metadata", code="metadata")
    batch = message.table(2)
    codec = None
    if batch.has(3):
        body = batch.table(3)
        codec = CODECS.get(body.scalar(0, "<b", 0))
        if codec is None or body.scalar(1, "<b", 0) != 0:
            raise DecodeError(
                "expected LZ4_FRAME or ZSTD by buffers as body compression",
                code="compression-codec",
            )
    return BatchMetadata(
        length=batch.scalar(0, "<q", 0),
        body_nbytes=message.scalar(3, "<q", 0),
        nodes=batch.longs(1, per_element=2),
        buffers=batch.longs(2, per_element=2),
        codec=codec,
        variadic=batch.longs(4, per_element=1),
    )


class _Table:
    """One flatbuffer table whose every access stays inside the bytes."""

    __slots__ = ("at", "data", "nbytes", "vtable", "vtable_nbytes")

    def __init__(self, data: bytes, at: int) -> None:
        self.data = data
        self.at = at
        self.vtable = at - _unpack("<i", data, at)
        self.vtable_nbytes = _unpack("<H", data, self.vtable)
        self.nbytes = _unpack("<H", data, self.vtable + 2)
        # As Arrow's own verifier: what one reader accepts, the others shall accept.
        if (
            self.vtable_nbytes % 2
            or self.vtable_nbytes < 4
            or self.vtable + self.vtable_nbytes > len(data)
            or at + self.nbytes > len(data)
        ):
            raise TruncatedError("expected a table inside the metadata", code="metadata")

    def _field(self, index: int) -> int:
        entry = 4 + 2 * index
        if entry + 2 > self.vtable_nbytes:
            return 0
        offset = _unpack("<H", self.data, self.vtable + entry)
        if offset >= self.nbytes:
            raise TruncatedError("expected a field inside its table", code="metadata")
        return offset

    def has(self, index: int) -> bool:
        return self._field(index) != 0

    def scalar(self, index: int, form: str, default: int) -> int:
        offset = self._field(index)
        return _unpack(form, self.data, self.at + offset) if offset else default

    def table(self, index: int) -> _Table:
        offset = self._field(index)
        if not offset:
            raise DecodeError(f"expected field {index} in the metadata", code="metadata")
        at = self.at + offset
        return _Table(self.data, at + _unsigned(self.data, at))

    def longs(self, index: int, *, per_element: int) -> tuple[int, ...]:
        offset = self._field(index)
        if not offset:
            return ()
        at = self.at + offset
        at += _unsigned(self.data, at)
        count = _unsigned(self.data, at) * per_element
        if at + 4 + 8 * count > len(self.data):
            raise TruncatedError("expected a vector inside the metadata", code="metadata")
        return struct.unpack_from(f"<{count}q", self.data, at + 4)


def _unsigned(data: bytes, at: int) -> int:
    return _unpack("<I", data, at)


def _unpack(form: str, data: bytes, at: int) -> int:
    if at < 0:
        raise TruncatedError("expected an offset inside the metadata", code="metadata")
    try:
        value: int = struct.unpack_from(form, data, at)[0]
    except struct.error as error:
        raise TruncatedError("expected an offset inside the metadata", code="metadata") from error
    return value
