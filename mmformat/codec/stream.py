"""The Arrow messages of a stream: located and checked before any tensor is viewed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

import pyarrow as pa

from mmformat._arrow import Schema, open_stream
from mmformat.codec.chained_buffer import ChainedBuffer
from mmformat.codec.columns import Bytes, Place, Row, read_rows
from mmformat.codec.decompression import (
    Allocate,
    check_lengths,
    claimed_lengths,
    decompress_columns,
    decompress_tensors,
)
from mmformat.codec.record_batch import (
    SCHEMA_HEADER,
    BatchMetadata,
    Structure,
    check_places,
    layout_of,
    plain_structure,
    read_batch_metadata,
    read_header_type,
    structure_of,
)
from mmformat.codec.schema import (
    ALIGNMENT,
    BUFFERS,
    CONTINUATION,
    END_OF_STREAM,
    SCHEMA,
    SCHEMA_MESSAGE,
    TENSOR,
    VERSION,
    VERSION_KEY,
)
from mmformat.codec.tensors import check_entry
from mmformat.errors import DecodeError, IntegrityError, SchemaError, TruncatedError, VersionError
from mmformat.model.limits import Limits

__all__ = [
    "Batch",
    "columns_in",
    "find_batches",
    "placed_rows",
    "read_batches",
    "read_key",
    "read_schema",
    "structure_in",
]


EXTENSION_KEY: Final = b"ARROW:extension:"


class Batch(NamedTuple):
    """The place of a record batch in its message.

    Parameters
    ----------
    start : int
        Byte of the message at which the encapsulated message begins.
    body_at : int
        Byte of the message at which the body begins.
    metadata : BatchMetadata
        The parsed flatbuffer, checked against the message's length.
    """

    start: int
    body_at: int
    metadata: BatchMetadata


def read_schema(spans: ChainedBuffer, limits: Limits) -> int:
    """Check the schema message and return the offset after it.

    Raises
    ------
    SchemaError, VersionError, TruncatedError
        If the stream does not begin with the schema of this format and version.
    """
    nbytes = len(SCHEMA_MESSAGE)
    if spans.nbytes >= nbytes and spans.read(0, nbytes) == SCHEMA_MESSAGE:
        return nbytes
    metadata, end = _read_metadata(spans, 0, limits)
    if metadata is None or read_header_type(metadata) != SCHEMA_HEADER:
        raise SchemaError("expected a schema message first", code="no-schema")
    _check_schema(bytes(spans.read(0, end)))
    return end


def _check_schema(message: bytes) -> None:
    if EXTENSION_KEY in message:
        # Arrow would call any Python code that is registered for the type's name.
        raise SchemaError(f"extension types are not allowed, got the key {EXTENSION_KEY.decode()}")
    try:
        schema = open_stream(message + END_OF_STREAM).schema
        names = ", ".join(schema.names)[:200]
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise SchemaError(f"expected an Arrow schema, got: {error}") from error
    text = (schema.metadata or {}).get(VERSION_KEY)
    if text is None:
        raise SchemaError(
            "the schema's metadata lacks the key mmformat.version",
            code="no-version",
            hint="this is an Arrow stream, but not an mmformat message",
        )
    if not text.isdigit() or text.startswith(b"0"):
        raise SchemaError(f"expected a version number, got {text[:20]!r}", code="no-version")
    if text != str(VERSION).encode():
        raise VersionError(
            f"expected a message of version {VERSION}, got version {text[:20].decode()}",
            hint="upgrade mmformat in the reader",
        )
    # Arrow ignores the names of list elements when it compares schemas.
    if not schema.equals(SCHEMA, check_metadata=False) or _names(schema) != _names(SCHEMA):
        raise SchemaError(
            f"expected the schema of version {VERSION}, got {len(schema)} columns: {names}"
        )


def read_key(spans: ChainedBuffer, key: bytes, limits: Limits) -> bytes | None:
    """Return a key of the schema's metadata, None when it is not there; the schema is checked.

    Raises
    ------
    SchemaError, VersionError, TruncatedError
        As :func:`read_schema`.
    """
    message = spans.read(0, read_schema(spans, limits))
    if message == SCHEMA_MESSAGE:
        return None
    value: bytes | None = open_stream(bytes(message) + END_OF_STREAM).schema.metadata.get(key)
    return value


def _names(schema: Schema) -> str:
    text: str = schema.to_string(show_field_metadata=False, show_schema_metadata=False)
    return text


def _read_metadata(spans: ChainedBuffer, at: int, limits: Limits) -> tuple[bytes | None, int]:
    prefix = spans.read(at, 8)
    if bytes(prefix[:4]) != CONTINUATION:
        raise DecodeError(
            "expected the continuation marker of an Arrow message",
            path=f"$[{at}]",
            code="marker",
            hint="this is not an mmformat message" if at == 0 else None,
        )
    nbytes = int.from_bytes(prefix[4:], "little")
    if nbytes == 0:
        return None, at + 8
    limits.check("metadata_nbytes", nbytes)
    return bytes(spans.read(at + 8, nbytes)), at + 8 + nbytes


def find_batches(spans: ChainedBuffer, limits: Limits) -> Iterator[Batch]:
    """Yield each record batch of the stream, its extents checked; the stream must end there.

    Raises
    ------
    DecodeError, IntegrityError, LimitError, SchemaError, TruncatedError, VersionError
        If the stream violates the format.
    """
    limits.check("message_nbytes", spans.nbytes)
    at = read_schema(spans, limits)
    count = 0
    while True:
        start = at
        metadata, body_at = _read_metadata(spans, at, limits)
        if metadata is None:
            break
        count += 1
        limits.check("batches", count)
        batch = read_batch_metadata(metadata)
        at = body_at + batch.body_nbytes
        if batch.body_nbytes < 0 or at > spans.nbytes:
            raise TruncatedError(
                f"expected a body of {batch.body_nbytes:,} bytes at byte {body_at:,}, "
                f"got a message of {spans.nbytes:,}"
            )
        if body_at % ALIGNMENT or at % ALIGNMENT:
            raise IntegrityError(
                f"expected the body on a multiple of {ALIGNMENT} bytes, got {body_at}..{at}",
                code="alignment",
            )
        yield Batch(start, body_at, batch)
    if body_at != spans.nbytes:
        raise IntegrityError(
            f"expected the end of the stream at byte {body_at:,}, "
            f"got {spans.nbytes - body_at:,} bytes more",
            code="trailing-bytes",
        )


def read_batches(
    spans: ChainedBuffer, limits: Limits, *, allocate: Allocate | None = None
) -> Iterator[list[Row]]:
    """Yield the rows of each batch of the message; tensors stay where they lie.

    Parameters
    ----------
    spans : ChainedBuffer
        The message.
    limits : Limits
        Bounds on the message.
    allocate : callable, optional
        Return memory for a compressed tensor: so many bytes, writable, at a multiple of 64.

    Raises
    ------
    DecodeError, IntegrityError, LimitError, SchemaError, TruncatedError, VersionError
        If the stream violates the format.

    Notes
    -----
    **Copies**: none of an uncompressed tensor; a compressed one is decompressed once into its own
    memory, on all cores, after its sizes were checked against the limits and its shape.
    """
    decompressed = 0
    for batch in find_batches(spans, limits):
        metadata = batch.metadata
        if metadata.codec is not None:
            rows, nbytes = _checked_rows(spans, batch, limits, decompressed)
            decompressed += nbytes
            decompress_tensors(spans, rows, metadata.codec, allocate=allocate)
            yield rows
            continue
        structure, _ = structure_in(spans, batch, limits)
        columns = spans.read(batch.body_at, layout_of(structure).columns.size)
        places = metadata.buffers[2 * BUFFERS :]
        variadic = [
            spans.read(batch.body_at + places[at], places[at + 1])
            for at in range(0, len(places), 2)
        ]
        yield read_rows(structure, columns, variadic, limits)


def _checked_rows(
    spans: ChainedBuffer, batch: Batch, limits: Limits, decompressed: int
) -> tuple[list[Row], int]:
    """Return a compressed batch's rows with places, after all sizes were checked."""
    structure, lengths = structure_in(spans, batch, limits)
    limits.check("decompressed_nbytes", decompressed + sum(lengths))
    try:
        rows = _rows_with_places(spans, batch, structure, lengths, limits)
        for row in rows:
            for entry in row.tensors:
                check_entry(entry, limits, path=f"$.items[{row.item}].{entry.name}")
    except (DecodeError, IntegrityError):
        check_lengths(spans, batch.body_at, batch.metadata, lengths)
        raise
    return rows, sum(lengths)


def placed_rows(
    spans: ChainedBuffer, batch: Batch, limits: Limits, *, decompressed: int = 0
) -> tuple[list[Row], int]:
    """Return a batch's rows with a Place for each data buffer, and its decompressed size.

    Parameters
    ----------
    spans, batch, limits
        As elsewhere.
    decompressed : int
        Decompressed size of the compressed batches before this one.

    Raises
    ------
    DecodeError, IntegrityError, LimitError
        If metadata or columns violate the format; no tensor byte is read.
    """
    structure, lengths = structure_in(spans, batch, limits)
    if batch.metadata.compressed:
        limits.check("decompressed_nbytes", decompressed + sum(lengths))
    return _rows_with_places(spans, batch, structure, lengths, limits), sum(lengths)


def _rows_with_places(
    spans: ChainedBuffer,
    batch: Batch,
    structure: Structure,
    lengths: tuple[int, ...],
    limits: Limits,
) -> list[Row]:
    columns = columns_in(spans, batch, structure, lengths)
    stored = batch.metadata.buffers[2 * BUFFERS :]
    places = [
        Place(batch.body_at + stored[2 * at], nbytes=nbytes, stored_nbytes=stored[2 * at + 1])
        for at, nbytes in enumerate(lengths[BUFFERS:])
    ]
    return read_rows(structure, columns, places, limits)


def columns_in(
    spans: ChainedBuffer, batch: Batch, structure: Structure, lengths: tuple[int, ...]
) -> Bytes:
    """Return a batch's column buffers as they lie in a plain body.

    Raises
    ------
    IntegrityError
        If a compressed buffer is not a frame of its claimed length.
    """
    if batch.metadata.compressed:
        return decompress_columns(spans, batch.body_at, batch.metadata, lengths)
    return spans.read(batch.body_at, layout_of(structure).columns.size)


def structure_in(
    spans: ChainedBuffer, batch: Batch, limits: Limits
) -> tuple[Structure, tuple[int, ...]]:
    """Return a batch's structure and the uncompressed lengths of its buffers, all checked.

    Raises
    ------
    DecodeError
        If the metadata contradicts itself, the schema or the layout.
    LimitError
        If more rows, tensors or column bytes are announced than the limits allow.
    """
    metadata = batch.metadata
    if metadata.compressed:
        check_places(metadata)
        lengths = claimed_lengths(spans, batch.body_at, metadata)
        structure = structure_of(metadata.nodes, lengths)
    else:
        structure = plain_structure(metadata)
        lengths = metadata.buffers[1::2]
    limits.check("metadata_nbytes", layout_of(structure).columns.size)
    limits.check("items", structure.lengths[0] - 1)
    limits.check("tensors", structure.lengths[TENSOR.level])
    return structure, lengths
