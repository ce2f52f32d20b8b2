"""The one place where pyarrow's untyped calls are wrapped."""

from __future__ import annotations

import os
from typing import Any, Final, Protocol, TypeAlias, cast

import numpy as np
import pyarrow as pa
from pyarrow import ipc

__all__ = ["Buffer", "Codec", "Schema", "codec_of", "decompress_into", "view_of_address"]

Schema: TypeAlias = Any
"""A ``pyarrow.Schema``; pyarrow ships no types."""

ZSTD_LEVEL: Final = 3
"""Zstandard's own default."""


class Buffer(Protocol):
    """What we use of a ``pyarrow.Buffer``; it also has the buffer protocol."""

    @property
    def address(self) -> int:
        """The address of the first byte."""

    @property
    def size(self) -> int:
        """The length in bytes."""

    def __len__(self) -> int: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...


class Codec(Protocol):
    """What we use of a ``pyarrow.Codec``."""

    def compress(self, buf: object, *, asbytes: bool = False) -> Buffer: ...
    def decompress(self, buf: object, decompressed_size: int) -> Buffer: ...


_EMPTY: Final = cast(Buffer, pa.py_buffer(b""))


def view_of_address(address: int, nbytes: int, owner: object) -> Buffer:
    """Return a read-only buffer over memory that ``owner`` keeps alive; no byte is copied."""
    if nbytes == 0:
        return _EMPTY
    return cast(Buffer, pa.foreign_buffer(address, nbytes, owner))


def buffer_of(value: object) -> Buffer:
    """Return a buffer over any object with the buffer protocol; no byte is copied."""
    return cast(Buffer, pa.py_buffer(value))


def allocated(nbytes: int) -> Buffer:
    """Return writable memory of Arrow's pool, on a multiple of 64 bytes; nothing is in it yet."""
    return cast(Buffer, pa.allocate_buffer(nbytes))


def copied(data: object) -> Buffer:
    """Return a writable copy of a buffer, on a multiple of 64 bytes."""
    source = np.frombuffer(data, np.uint8)  # type: ignore[call-overload]
    made = allocated(source.size)
    np.copyto(np.frombuffer(made, np.uint8), source)  # type: ignore[call-overload]
    return made


def codec_of(name: str) -> Codec:
    """Return Arrow's codec of frames, ``"lz4"`` or ``"zstd"``; threads may share it."""
    if name == "zstd":
        return cast(Codec, pa.Codec(name, compression_level=ZSTD_LEVEL))
    return cast(Codec, pa.Codec(name))


def core_count() -> int:
    """Return how many threads may compute at once: the cores we may use, or fewer if Arrow may."""
    return max(1, min(len(os.sched_getaffinity(0)), cast(int, pa.cpu_count())))


def serialize_schema(schema: Schema) -> bytes:
    """Return the encapsulated schema message of an Arrow stream."""
    return cast(bytes, schema.serialize().to_pybytes())


def open_stream(source: object) -> Any:
    """Open an Arrow stream with pyarrow's own reader."""
    # Foreign byte order is not swapped but seen: the schema then differs from ours.
    return ipc.open_stream(source, options=ipc.IpcReadOptions(ensure_native_endian=False))


def decompress_into(frame: object, destination: memoryview, codec: str) -> None:
    """Write what a frame holds, which must be as many bytes as the destination has.

    ``Codec.decompress`` returns as many bytes as it is asked for and does not say how many of them
    it wrote; the stream does, and it writes to memory that we have. Other threads run meanwhile.

    Raises
    ------
    OSError, ValueError
        When the frame is corrupt or holds another number of bytes.
    """
    with pa.CompressedInputStream(pa.BufferReader(frame), codec) as stream:
        nbytes = stream.readinto(destination)
        if nbytes != len(destination) or stream.read(1):
            raise ValueError(f"{nbytes} bytes or more")


def decompressed_nbytes(frame: object, codec: str, *, most: int) -> int:
    """Return how many bytes a frame holds, or some number over ``most``; none of them is kept.

    Raises
    ------
    OSError, ValueError
        When the frame is corrupt.
    """
    nbytes = 0
    with pa.CompressedInputStream(pa.BufferReader(frame), codec) as stream:
        while nbytes <= most and (piece := stream.read(2**20)):
            nbytes += len(piece)
    return nbytes


def validate_stream(source: object) -> None:
    """Let Arrow read a stream and validate each batch in full.

    Raises
    ------
    ArrowException, OSError
        When Arrow finds anything wrong.
    """
    with open_stream(source) as reader:
        for batch in reader:
            batch.validate(full=True)


def read_tables(paths: list[str]) -> Any:
    """Return the batches of Arrow stream files, mapped, as one ``pyarrow.Table``."""
    tables = []
    for path in paths:
        with open_stream(pa.memory_map(path)) as reader:
            tables.append(reader.read_all().replace_schema_metadata(None))
    return pa.concat_tables(tables)


def write_arrow_file(table: Any, sink: object) -> None:
    """Write a table in Arrow's file format."""
    with ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


def write_parquet_file(table: Any, sink: object) -> None:
    """Write a table as Parquet, whose lists hold plain binary in place of binary views."""
    from pyarrow import parquet

    schema = pa.schema([field.with_type(_without_views(field.type)) for field in table.schema])
    parquet.write_table(table.cast(schema), sink, compression="none")


def _without_views(kind: Any) -> Any:
    """Return a type in which binary views and string views are large binary and large strings."""
    if kind == pa.binary_view():
        return pa.large_binary()
    if kind == pa.string_view():
        return pa.large_string()
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        make = pa.list_ if pa.types.is_list(kind) else pa.large_list
        return make(kind.value_field.with_type(_without_views(kind.value_type)))
    if pa.types.is_struct(kind):
        return pa.struct([each.with_type(_without_views(each.type)) for each in kind])
    return kind
