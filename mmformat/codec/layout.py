"""Where each buffer of a record batch lies: a function of the batch's structure alone."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import lru_cache
from typing import Final, NamedTuple

from mmformat.codec.caching import cached_when_small
from mmformat.codec.flatbuffer import BatchMetadata, write_batch_metadata
from mmformat.codec.schema import ALIGNMENT, CONTINUATION
from mmformat.errors import DecodeError, IntegrityError, SchemaError

__all__ = ["BUFFERS", "Layout", "Structure", "layout_of", "places", "structure_of"]

NODES: Final = 21
"""Arrays of the schema in depth-first order, nested ones counted."""

BUFFERS: Final = 49
"""Buffers of the schema; the variadic ones follow them, for the view column is the last."""

CACHED_SIZE: Final = 1024
"""Structures of at most this size are remembered."""


class Structure(NamedTuple):
    """Say everything that decides the layout of a batch's columns.

    Parameters
    ----------
    rows, ranges, tensors, extents, chunks : int
        Lengths of the arrays.
    nulls : tuple of int
        Null counts of format, hash, pad_value, identity, offsets, attributes, parameters.
    text : tuple of int
        Bytes of modality, format, hash, identity, attributes, name, dtype, encoding, parameters.
    """

    rows: int
    ranges: int
    tensors: int
    extents: int
    chunks: int
    nulls: tuple[int, ...]
    text: tuple[int, ...]


def _size(structure: Structure) -> int:
    """Measure how much follows from a structure."""
    rows, ranges, tensors, extents, chunks, *_ = structure
    return rows + ranges + tensors + extents + chunks


class Layout(NamedTuple):
    """Hold what follows from a structure.

    Parameters
    ----------
    nodes : tuple of int
        Length and null count of each array.
    lengths : tuple of int
        Bytes of each column buffer, uncompressed.
    columns : struct.Struct
        All column buffers and their padding in one go.
    slices : tuple of slice
        Where each column buffer's values lie in what ``columns`` packs and unpacks.
    """

    nodes: tuple[int, ...]
    lengths: tuple[int, ...]
    columns: struct.Struct
    slices: tuple[slice, ...]


class _Builder:
    """Walk the schema depth-first and note nodes, lengths and formats."""

    def __init__(self) -> None:
        self.nodes: list[int] = []
        self.lengths: list[int] = []
        self.forms: list[str] = []
        self.slices: list[slice] = []
        self.values = 0

    def array(self, length: int, nulls: int = 0) -> None:
        self.nodes += (length, nulls)
        self.octets((length + 7) // 8 if nulls else 0)

    def octets(self, nbytes: int) -> None:
        self._buffer(nbytes, f"{nbytes}s", 1)

    def numbers(self, code: str, count: int) -> None:
        self._buffer(count * struct.calcsize(f"<{code}"), f"{count}{code}", count)

    def _buffer(self, nbytes: int, form: str, values: int) -> None:
        self.lengths.append(nbytes)
        self.forms.append(f"{form}{-nbytes % 8}x")
        self.slices.append(slice(self.values, self.values + values))
        self.values += values

    def text(self, length: int, nbytes: int, nulls: int = 0) -> None:
        self.array(length, nulls)
        self.numbers("i", length + 1)
        self.octets(nbytes)

    def fixed(self, code: str, length: int, nulls: int = 0) -> None:
        self.array(length, nulls)
        self.numbers(code, length)

    def list(self, length: int, nulls: int = 0) -> None:
        self.array(length, nulls)
        self.numbers("i", length + 1)


@cached_when_small(_size, limit=CACHED_SIZE)
def layout_of(structure: Structure) -> Layout:
    """Return the layout of a structure, by the order of the schema's columns."""
    rows, ranges, tensors, extents, chunks, nulls, text = structure
    build = _Builder()
    build.fixed("i", rows)  # item
    build.text(rows, text[0])  # modality
    build.text(rows, text[1], nulls[0])  # format
    build.text(rows, text[2], nulls[1])  # hash
    build.fixed("q", rows, nulls[2])  # pad_value
    build.text(rows, text[3], nulls[3])  # identity
    build.list(rows, nulls[4])  # offsets
    build.array(ranges)
    build.fixed("q", ranges)
    build.fixed("q", ranges)
    build.text(rows, text[4], nulls[5])  # attributes
    build.list(rows)  # tensors
    build.array(tensors)
    build.text(tensors, text[5])  # name
    build.text(tensors, text[6])  # dtype
    build.list(tensors)  # shape
    build.fixed("q", extents)
    build.text(tensors, text[7])  # encoding
    build.text(tensors, text[8], nulls[6])  # parameters
    build.list(tensors)  # data
    build.array(chunks)
    build.octets(16 * chunks)
    form = "<" + "".join(build.forms)
    form += f"{-struct.calcsize(form) % ALIGNMENT}x"
    return Layout(
        tuple(build.nodes),
        tuple(build.lengths),
        struct.Struct(form),
        tuple(build.slices),
    )


def structure_of(nodes: tuple[int, ...], lengths: tuple[int, ...]) -> Structure:
    """Return the one structure that nodes and uncompressed buffer lengths can have.

    Raises
    ------
    DecodeError
        When there is none: counts or lengths contradict each other or the schema.
    """
    if len(nodes) != 2 * NODES or len(lengths) < BUFFERS:
        raise SchemaError(
            f"expected {NODES} arrays and {BUFFERS} buffers or more, "
            f"got {len(nodes) // 2} and {len(lengths)}",
            code="array-count",
        )
    if min(nodes) < 0 or max(nodes) >= 2**31 or min(lengths) < 0:
        raise DecodeError("expected lengths from 0 to 2**31 - 1", code="array-length")
    structure = Structure(
        rows=nodes[0],
        ranges=nodes[14],
        tensors=nodes[24],
        extents=nodes[32],
        chunks=nodes[40],
        nulls=tuple(nodes[2 * at + 1] for at in (2, 3, 4, 5, 6, 10, 18)),
        text=tuple(lengths[at] for at in (4, 7, 10, 15, 25, 31, 34, 41, 44)),
    )
    # Counts are bounded by the bytes that were sent, before anything is made from them.
    if max(structure[:5]) > sum(lengths[:BUFFERS]):
        raise DecodeError("expected arrays as long as their buffers", code="array-length")
    layout = layout_of(structure)
    if layout.nodes != nodes:
        raise DecodeError(
            "expected arrays as long as their parents, and no nulls where the schema allows none",
            code="array-length",
        )
    if layout.lengths != lengths[:BUFFERS]:
        pairs = enumerate(zip(layout.lengths, lengths, strict=False))
        index, expected, got = next((i, a, b) for i, (a, b) in pairs if a != b)
        raise DecodeError(
            f"expected {expected} bytes, got {got}",
            path=f"$.buffers[{index}]",
            code="buffer-length",
        )
    return structure


def places(lengths: Sequence[int]) -> tuple[tuple[int, ...], int]:
    """Return offset and length of each buffer of a body, and the body's bytes.

    The columns' buffers lie on 8 bytes and the variadic ones on 64, each right behind the other.
    """
    columns, end = _column_places(tuple(lengths[:BUFFERS]))
    flat: list[int] = []
    for length in lengths[BUFFERS:]:
        flat += (end, length)
        end += length + -length % ALIGNMENT
    return (*columns, *flat), end


@lru_cache(maxsize=512)
def _column_places(lengths: tuple[int, ...]) -> tuple[tuple[int, ...], int]:
    flat: list[int] = []
    end = 0
    for length in lengths:
        flat += (end, length)
        end += length + -length % 8
    return tuple(flat), end + -end % ALIGNMENT


def _buffer_count(metadata: BatchMetadata) -> int:
    return len(metadata.buffers)


@cached_when_small(_buffer_count, limit=CACHED_SIZE)
def plain_structure(metadata: BatchMetadata) -> Structure:
    """Return the structure of an uncompressed batch, its places checked.

    Raises
    ------
    DecodeError
        When nodes and buffers contradict each other, the schema or the layout.
    """
    check_places(metadata)
    return structure_of(metadata.nodes, metadata.buffers[1::2])


def check_places(metadata: BatchMetadata) -> None:
    """Raise unless the buffers fill the body in order, aligned, without hole or overlap.

    Raises
    ------
    IntegrityError
        Naming the first buffer that lies elsewhere.
    SchemaError
        When rows or variadic buffers are counted otherwise than they are.
    """
    lengths = metadata.buffers[1::2]
    if metadata.nodes[:1] != (metadata.length,) or metadata.variadic != (len(lengths) - BUFFERS,):
        raise SchemaError(
            f"expected {metadata.length} rows and {len(lengths) - BUFFERS} variadic buffers, "
            f"got {metadata.nodes[:1]} and {metadata.variadic}",
            code="array-count",
        )
    if min(lengths, default=0) < 0:
        raise IntegrityError("expected buffers of 0 bytes or more", code="layout")
    expected, nbytes = places(lengths)
    if expected != metadata.buffers:
        pairs = enumerate(zip(expected, metadata.buffers, strict=True))
        index = next(i for i, (a, b) in pairs if a != b) // 2
        raise IntegrityError(
            f"expected it at byte {expected[2 * index]} of the body, "
            f"got {metadata.buffers[2 * index]}",
            path=f"$.buffers[{index}]",
            code="layout",
        )
    if nbytes != metadata.body_nbytes:
        raise IntegrityError(
            f"expected a body of {nbytes} bytes, got {metadata.body_nbytes}", code="layout"
        )


def encapsulate(
    structure: Structure, lengths: tuple[int, ...], *, codec: str | None = None
) -> bytes:
    """Return the encapsulated metadata of a batch whose buffers have these stored lengths.

    It is padded so that metadata and prefix take a multiple of 64 bytes.
    """
    if codec or len(lengths) > CACHED_SIZE or _size(structure) > CACHED_SIZE:
        return _encapsulated(structure, lengths, codec)
    return _remembered_capsule(structure, lengths)


@lru_cache(maxsize=512)
def _remembered_capsule(structure: Structure, lengths: tuple[int, ...]) -> bytes:
    return _encapsulated(structure, lengths, None)


def _encapsulated(structure: Structure, lengths: tuple[int, ...], codec: str | None) -> bytes:
    buffers, body_nbytes = places(lengths)
    metadata = write_batch_metadata(
        BatchMetadata(
            length=structure.rows,
            body_nbytes=body_nbytes,
            nodes=layout_of(structure).nodes,
            buffers=buffers,
            codec=codec,
            variadic=(len(lengths) - BUFFERS,),
        )
    )
    padding = -(len(metadata) + 8) % ALIGNMENT
    size = len(metadata) + padding
    return CONTINUATION + size.to_bytes(4, "little") + metadata + bytes(padding)
