"""Rows written to Arrow buffers, and read back from them, in the schema's depth-first order."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Any, Final

from mmformat.codec.rows import Bytes, Row, TensorEntry
from mmformat.errors import DecodeError, TruncatedError
from mmformat.model.limits import Limits

__all__ = ["BUFFERS", "NODES", "ColumnWriter", "read_rows"]

NODES: Final = 21
"""Arrays of the schema, nested ones counted."""

BUFFERS: Final = 49
"""Buffers of the schema; the variadic ones follow them, for the view column is the last."""

INLINE_NBYTES: Final = 12
"""A view of at most this many bytes holds its value itself (Arrow, Variable-size Binary View)."""

CHUNK_NBYTES: Final = 2**30
"""A larger tensor is cut into views of this many bytes; a view's length is an int32."""

_VIEW: Final = struct.Struct("<i4sii")
_INLINE: Final = struct.Struct("<i12s")


class ColumnWriter:
    """Turn rows into field nodes, column buffers and variadic buffers."""

    __slots__ = ("_nulls", "buffers", "nodes", "variadic")

    def __init__(self, rows: Sequence[Row]) -> None:
        self.nodes: list[int] = []
        self.buffers: list[bytes] = []
        self.variadic: list[Bytes] = []
        self._fixed("i", [row.item for row in rows])
        self._text([row.modality for row in rows])
        self._text([row.format for row in rows])
        self._text([row.hash for row in rows])
        self._fixed("q", [row.pad_value for row in rows])
        self._text([row.identity for row in rows])
        self._offsets([row.offsets for row in rows])
        self._text([row.attributes for row in rows])
        self._tensors([row.tensors for row in rows])

    def _validity(self, values: Sequence[object]) -> None:
        # Not values.count(None): a buffer compares itself by its bytes.
        nulls = sum([value is None for value in values])
        self.nodes += (len(values), nulls)
        self.buffers.append(_bitmap(values) if nulls else b"")

    def _fixed(self, code: str, values: Sequence[int | None]) -> None:
        self._validity(values)
        self.buffers.append(struct.pack(f"<{len(values)}{code}", *[value or 0 for value in values]))

    def _text(self, values: Sequence[str | None]) -> None:
        self._validity(values)
        parts = [value.encode() if value else b"" for value in values]
        self._ends([len(part) for part in parts])
        self.buffers.append(b"".join(parts))

    def _ends(self, lengths: Iterable[int]) -> None:
        self.buffers.append(array("i", accumulate(lengths, initial=0)).tobytes())

    def _offsets(self, values: Sequence[list[tuple[int, int]] | None]) -> None:
        self._validity(values)
        self._ends([len(value) if value else 0 for value in values])
        ranges = [pair for value in values if value for pair in value]
        self._validity(ranges)
        self._fixed("q", [start for start, _ in ranges])
        self._fixed("q", [end for _, end in ranges])

    def _tensors(self, values: Sequence[list[TensorEntry]]) -> None:
        self._validity(values)
        self._ends([len(value) for value in values])
        tensors = [tensor for value in values for tensor in value]
        self._validity(tensors)
        self._text([tensor.name for tensor in tensors])
        self._text([tensor.dtype for tensor in tensors])
        self._validity(tensors)
        self._ends([len(tensor.shape) for tensor in tensors])
        self._fixed("q", [extent for tensor in tensors for extent in tensor.shape])
        self._text([tensor.encoding for tensor in tensors])
        self._text([tensor.parameters for tensor in tensors])
        self._validity(tensors)
        self._ends([len(tensor.data) for tensor in tensors])
        self._views([chunk for tensor in tensors for chunk in tensor.data])

    def _views(self, chunks: Sequence[Bytes]) -> None:
        self._validity(chunks)
        self.buffers.append(b"".join([self._view(chunk) for chunk in chunks]))

    def _view(self, chunk: Bytes) -> bytes:
        nbytes = len(chunk)
        if nbytes <= INLINE_NBYTES:
            return _INLINE.pack(nbytes, bytes(chunk))
        self.variadic.append(chunk)
        return _VIEW.pack(nbytes, bytes(memoryview(chunk)[:4]), len(self.variadic) - 1, 0)


def _bitmap(values: Sequence[object]) -> bytes:
    bits = 0
    for index, value in enumerate(values):
        if value is not None:
            bits |= 1 << index
    return bits.to_bytes((len(values) + 7) // 8, "little")


def read_rows(
    length: int,
    nodes: Sequence[int],
    buffers: Sequence[memoryview],
    variadic: Sequence[Bytes],
    limits: Limits,
) -> list[Row]:
    """Read rows from a batch's buffers; every length, offset and null is checked on the way.

    Raises
    ------
    DecodeError
        When lengths, offsets, nulls or text are not what Arrow and the schema demand.
    LimitError
        When there are more tensors, axes or chunks than the limits allow.

    Notes
    -----
    **Copies**: the columns' values, and tensors of 12 bytes or fewer; other tensors stay views.
    """
    reader = _ColumnReader(nodes, buffers, variadic, limits)
    item = reader.fixed("i", length)
    modality = reader.text(length)
    form = reader.text(length, nullable=True)
    hashes = reader.text(length, nullable=True)
    pad_value = reader.fixed("q", length, nullable=True)
    identity = reader.text(length, nullable=True)
    offsets = reader.offsets(length)
    attributes = reader.text(length, nullable=True)
    tensors = reader.tensors(length)
    return [
        Row(*values)  # type: ignore[arg-type]
        for values in zip(
            item,
            modality,
            form,
            hashes,
            pad_value,
            identity,
            offsets,
            attributes,
            tensors,
            strict=True,
        )
    ]


class _ColumnReader:
    """Walk the nodes and buffers in the order in which the writer made them."""

    __slots__ = ("buffers", "limits", "next_buffer", "next_node", "nodes", "variadic")

    def __init__(
        self,
        nodes: Sequence[int],
        buffers: Sequence[memoryview],
        variadic: Sequence[Bytes],
        limits: Limits,
    ) -> None:
        self.nodes = nodes
        self.buffers = buffers
        self.variadic = variadic
        self.limits = limits
        self.next_node = 0
        self.next_buffer = 0

    def _buffer(self) -> memoryview:
        self.next_buffer += 1
        return self.buffers[self.next_buffer - 1]

    def _validity(self, length: int, *, nullable: bool = False) -> int | None:
        """Check the next node, and return the bitmap as an int, or None where nothing is null."""
        at = 2 * self.next_node
        self.next_node += 1
        bitmap = self._buffer()
        if self.nodes[at] != length:
            raise DecodeError(
                f"expected an array of {length} elements, got {self.nodes[at]}",
                path=f"$.nodes[{at // 2}]",
                code="array-length",
            )
        nulls = self.nodes[at + 1]
        if nulls == 0:
            return None
        if not nullable:
            raise DecodeError(
                "expected no nulls in this column", path=f"$.nodes[{at // 2}]", code="null"
            )
        if len(bitmap) * 8 < length:
            raise TruncatedError("expected a validity bit a row", code="validity")
        bits = int.from_bytes(bitmap[: (length + 7) // 8], "little") & ((1 << length) - 1)
        if length - bits.bit_count() != nulls:
            raise DecodeError(
                f"expected {nulls} nulls, got {length - bits.bit_count()}", code="null-count"
            )
        return bits

    def _array(self, code: str, length: int) -> list[int]:
        data = self._buffer()
        nbytes = length * (4 if code == "i" else 8)
        if len(data) < nbytes:
            raise TruncatedError(
                f"expected {nbytes} bytes, got {len(data)}",
                path=f"$.buffers[{self.next_buffer - 1}]",
                code="buffer-length",
            )
        # An empty view cannot be cast.
        return data[:nbytes].cast(code).tolist() if nbytes else []

    def fixed(self, code: str, length: int, *, nullable: bool = False) -> list[Any]:
        valid = self._validity(length, nullable=nullable)
        values = self._array(code, length)
        if valid is None:
            return values
        return [value if valid >> index & 1 else None for index, value in enumerate(values)]

    def _ends(self, length: int) -> list[int]:
        if length == 0:
            # Arrow lets the offsets of an empty array be absent.
            self._buffer()
            return [0]
        ends = self._array("i", length + 1)
        if ends[0] != 0 or any(a > b for a, b in zip(ends, ends[1:], strict=False)):
            raise DecodeError(
                "expected offsets that start at 0 and never fall",
                path=f"$.buffers[{self.next_buffer - 1}]",
                code="offsets",
            )
        return ends

    def text(self, length: int, *, nullable: bool = False) -> list[Any]:
        valid = self._validity(length, nullable=nullable)
        ends = self._ends(length)
        data = self._buffer()
        if len(data) != ends[-1]:
            raise TruncatedError(
                f"expected {ends[-1]} bytes of text, got {len(data)}",
                path=f"$.buffers[{self.next_buffer - 1}]",
                code="buffer-length",
            )
        try:
            if length == 1:
                return [str(data, "utf-8")] if valid is None else [None]
            values = [
                str(data[start:end], "utf-8") for start, end in zip(ends, ends[1:], strict=False)
            ]
        except UnicodeDecodeError as error:
            raise DecodeError(
                "expected UTF-8 text", path=f"$.buffers[{self.next_buffer - 1}]", code="utf8"
            ) from error
        if valid is None:
            return values
        return [value if valid >> index & 1 else None for index, value in enumerate(values)]

    def offsets(self, length: int) -> list[list[tuple[int, int]] | None]:
        valid = self._validity(length, nullable=True)
        ends = self._ends(length)
        count = ends[-1]
        self._validity(count)
        starts = self.fixed("q", count)
        stops = self.fixed("q", count)
        ranges = list(zip(starts, stops, strict=True))
        return [
            ranges[start:end] if valid is None or valid >> index & 1 else None
            for index, (start, end) in enumerate(zip(ends, ends[1:], strict=False))
        ]

    def tensors(self, length: int) -> list[list[TensorEntry]]:
        self._validity(length)
        ends = self._ends(length)
        count = ends[-1]
        self.limits.check("tensors", count)
        self._validity(count)
        names = self.text(count)
        dtypes = self.text(count)
        self._validity(count)
        shape_ends = self._ends(count)
        extents = self.fixed("q", shape_ends[-1])
        encodings = self.text(count)
        parameters = self.text(count, nullable=True)
        self._validity(count)
        data_ends = self._ends(count)
        chunks = self._views(data_ends[-1])
        tensors = []
        for index in range(count):
            shape = extents[shape_ends[index] : shape_ends[index + 1]]
            data = chunks[data_ends[index] : data_ends[index + 1]]
            self.limits.check("dimensions", len(shape))
            self.limits.check("chunks", len(data))
            tensors.append(
                TensorEntry(
                    names[index],
                    dtypes[index],
                    tuple(shape),
                    encodings[index],
                    parameters[index],
                    data,
                )
            )
        return [tensors[start:end] for start, end in zip(ends, ends[1:], strict=False)]

    def _views(self, count: int) -> list[Bytes]:
        self._validity(count)
        data = self._buffer()
        if len(data) != 16 * count:
            raise TruncatedError(
                f"expected {16 * count} bytes of views, got {len(data)}", code="buffer-length"
            )
        chunks: list[Bytes] = []
        used = 0
        for nbytes, prefix, index, offset in _VIEW.iter_unpack(data):
            if 0 <= nbytes <= INLINE_NBYTES:
                at = 16 * len(chunks)
                if any(data[at + 4 + nbytes : at + 16]):
                    raise DecodeError("expected zeros behind an inline value", code="view")
                chunks.append(bytes(data[at + 4 : at + 4 + nbytes]))
                continue
            if index != used or offset != 0 or used >= len(self.variadic):
                raise DecodeError(
                    f"expected a view of the whole of data buffer {used}, "
                    f"got {nbytes} bytes at {offset} of data buffer {index}",
                    code="view",
                )
            chunk = self.variadic[used]
            if len(chunk) != nbytes or bytes(memoryview(chunk)[:4]) != prefix:
                raise DecodeError(
                    f"expected data buffer {used} to hold the view's {nbytes} bytes", code="view"
                )
            used += 1
            chunks.append(chunk)
        if used != len(self.variadic):
            raise DecodeError(
                f"expected {used} data buffers, got {len(self.variadic)}", code="view"
            )
        return chunks
