"""The one place where pyarrow's untyped calls are wrapped."""

from __future__ import annotations

from typing import Any, Final, Protocol, TypeAlias, cast

import pyarrow as pa
from pyarrow import ipc

__all__ = ["Buffer", "Lz4Codec", "Schema", "lz4_codec", "view_of_address"]

Schema: TypeAlias = Any
"""A ``pyarrow.Schema``; pyarrow ships no types."""


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


class Lz4Codec(Protocol):
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


def lz4_codec() -> Lz4Codec:
    """Return Arrow's LZ4 frame codec."""
    return cast(Lz4Codec, pa.Codec("lz4"))


def serialize_schema(schema: Schema) -> bytes:
    """Return the encapsulated schema message of an Arrow stream."""
    return cast(bytes, schema.serialize().to_pybytes())


def open_stream(source: object) -> Any:
    """Open an Arrow stream with pyarrow's own reader."""
    # Foreign byte order is not swapped but seen: the schema then differs from ours.
    return ipc.open_stream(source, options=ipc.IpcReadOptions(ensure_native_endian=False))


def decompress_lz4(frame: object, nbytes: int) -> bytes:
    """Return what an LZ4 frame holds, which must be ``nbytes`` bytes.

    ``Codec.decompress`` returns as many bytes as it is asked for and does not say how many of them
    it wrote; the stream does.

    Raises
    ------
    OSError, ValueError
        When the frame is corrupt or holds another number of bytes.
    """
    with pa.CompressedInputStream(pa.BufferReader(frame), "lz4") as stream:
        data = cast(bytes, stream.read(nbytes))
        if len(data) != nbytes or stream.read(1):
            raise ValueError(f"{len(data)} bytes or more")
    return data


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


def read_compressed_batch(message: object, schema: Schema) -> list[Buffer | None]:
    """Return the decompressed buffers of an encapsulated record batch, in depth-first order.

    Arrow decompresses the buffers in parallel and checks that each frame has its claimed length.
    """
    batch = ipc.read_record_batch(ipc.read_message(message), schema)
    return [buffer for column in batch.columns for buffer in column.buffers()]
