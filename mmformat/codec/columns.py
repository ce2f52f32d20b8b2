"""Rows written to Arrow columns, and read back from them."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import Any, Final, NamedTuple

from mmformat.codec.layout import Layout, Structure, layout_of
from mmformat.codec.rows import Bytes, Place, Row, TensorEntry
from mmformat.errors import DecodeError
from mmformat.model.limits import Limits

__all__ = ["CHUNK_NBYTES", "INLINE_NBYTES", "read_rows", "write_rows"]

INLINE_NBYTES: Final = 12
"""A view of at most this many bytes holds its value itself (Arrow, Variable-size Binary View)."""

CHUNK_NBYTES: Final = 2**30
"""A larger tensor is cut into views of this many bytes; a view's length is an int32."""

NULLABLE: Final = (5, 8, 11, 13, 16, 23, 42)
"""The validity buffers that may be there, in the order of ``Structure.nulls``."""

REMEMBERED: Final = 64
"""Text columns of at most this many values are remembered."""

REMEMBERED_VALUES: Final = 512
REMEMBERED_NBYTES: Final = 8192
"""Columns of at most this many values and bytes are remembered, whoever sent them."""

_VIEW: Final = struct.Struct("<i4sii")
_INLINE: Final = struct.Struct("<i12s")


def write_rows(rows: Sequence[Row]) -> tuple[Structure, bytes, list[Bytes]]:
    """Return the batch's structure, its column buffers as they lie in the body, and the tensors.

    Notes
    -----
    **Copies**: tensors of 12 bytes or fewer, and 4 bytes of each other one, as Arrow's views have.
    """
    write = _Writer()
    write.numbers([row.item for row in rows])
    write.text([row.modality for row in rows])
    write.text([row.format for row in rows], nullable=True)
    write.text([row.hash for row in rows], nullable=True, same=False)
    write.nullable_numbers([row.pad_value for row in rows])
    write.text([row.identity for row in rows], nullable=True, same=False)
    ranges = write.offsets([row.offsets for row in rows])
    write.text([row.attributes for row in rows], nullable=True)
    write.lists([row.tensors for row in rows])
    tensors = [tensor for row in rows for tensor in row.tensors]
    write.valid()
    write.text([tensor.name for tensor in tensors])
    write.text([tensor.dtype for tensor in tensors])
    write.lists([tensor.shape for tensor in tensors])
    extents = [extent for tensor in tensors for extent in tensor.shape]
    write.numbers(extents)
    write.text([tensor.encoding for tensor in tensors])
    write.text([tensor.parameters for tensor in tensors], nullable=True)
    write.lists([tensor.data for tensor in tensors])
    chunks = [chunk for tensor in tensors for chunk in tensor.data]
    variadic = write.views(chunks)
    structure = Structure(
        len(rows),
        ranges,
        len(tensors),
        len(extents),
        len(chunks),
        tuple(write.null_counts),
        tuple(write.text_nbytes),
    )
    return structure, layout_of(structure).columns.pack(*write.values), variadic


def _text_of(values: Sequence[str | None]) -> tuple[int, list[Any]]:
    """Return the nulls of a text column, and the values of its bitmap, offsets and bytes."""
    parts = [value.encode() if value else b"" for value in values]
    nulls = sum([value is None for value in values])
    bitmap = _bitmap(values) if nulls else b""
    return nulls, [bitmap, *accumulate(map(len, parts), initial=0), b"".join(parts)]


@lru_cache(maxsize=512)
def _remembered_text(values: tuple[str | None, ...]) -> tuple[int, list[Any]]:
    return _text_of(values)


class _Writer:
    """Collect the values of all column buffers in schema order."""

    __slots__ = ("null_counts", "text_nbytes", "values")

    def __init__(self) -> None:
        self.values: list[int | bytes] = []
        self.null_counts: list[int] = []
        self.text_nbytes: list[int] = []

    def valid(self) -> None:
        self.values.append(b"")

    def _validity(self, values: Sequence[object]) -> None:
        nulls = 0
        for value in values:
            if value is None:
                nulls += 1
        self.null_counts.append(nulls)
        self.values.append(_bitmap(values) if nulls else b"")

    def numbers(self, values: Sequence[int]) -> None:
        self.values.append(b"")
        self.values += values

    def nullable_numbers(self, values: Sequence[int | None]) -> None:
        self._validity(values)
        self.values += [value or 0 for value in values]

    def text(
        self, values: Sequence[str | None], *, nullable: bool = False, same: bool = True
    ) -> None:
        # Of one model's requests most texts are the same, so their columns are remembered.
        if same and len(values) <= REMEMBERED:
            nulls, column = _remembered_text(tuple(values))
        else:
            nulls, column = _text_of(values)
        self.values += column
        if nullable:
            self.null_counts.append(nulls)
        self.text_nbytes.append(len(column[-1]))

    def lists(self, values: Sequence[Sequence[object]]) -> None:
        self.values.append(b"")
        self.values += accumulate(map(len, values), initial=0)

    def offsets(self, values: Sequence[Sequence[tuple[int, int]] | None]) -> int:
        self._validity(values)
        self.values += accumulate([len(value or ()) for value in values], initial=0)
        ranges = [pair for value in values if value for pair in value]
        self.valid()
        self.numbers([start for start, _ in ranges])
        self.numbers([end for _, end in ranges])
        return len(ranges)

    def views(self, chunks: Sequence[Bytes]) -> list[Bytes]:
        self.valid()
        variadic: list[Bytes] = []
        views = []
        for chunk in chunks:
            nbytes = len(chunk)
            if nbytes <= INLINE_NBYTES:
                views.append(_INLINE.pack(nbytes, bytes(chunk)))
            else:
                views.append(_VIEW.pack(nbytes, bytes(memoryview(chunk)[:4]), len(variadic), 0))
                variadic.append(chunk)
        self.values.append(b"".join(views))
        return variadic


def _bitmap(values: Sequence[object]) -> bytes:
    bits = sum([1 << index for index, value in enumerate(values) if value is not None])
    return bits.to_bytes((len(values) + 7) // 8, "little")


def read_rows(
    structure: Structure, columns: Bytes, variadic: Sequence[Bytes | Place], limits: Limits
) -> list[Row]:
    """Read rows from column buffers as they lie in a body; every value is checked on the way.

    Raises
    ------
    DecodeError
        When offsets, nulls, views or text are not what Arrow and the schema demand.
    LimitError
        When a tensor has more axes or chunks than the limits allow.

    Notes
    -----
    **Copies**: the columns' values, and tensors of 12 bytes or fewer; other tensors stay views.
    A data buffer given as a Place is taken unread: its length counts, its first bytes do not, and
    the Place is told what they should be.
    """
    layout = layout_of(structure)
    read = _Reader(structure, layout, layout.columns.unpack_from(columns))
    fixed = read.fixed_columns()
    shapes = _cut(read.values[layout.slices[38]], fixed.shape)
    data = _cut(read.views(variadic), fixed.data)
    limits.check("dimensions", max(map(len, shapes), default=0))
    limits.check("chunks", max(map(len, data), default=0))
    tensors = [
        TensorEntry(name, dtype, shape, encoding, parameters, chunks)
        for (name, dtype, encoding, parameters), shape, chunks in zip(
            fixed.tensors, shapes, data, strict=True
        )
    ]
    hashes = read.nullable_text(8)
    pad_values = read.nullable(11, read.values[layout.slices[12]])
    identities = read.nullable_text(13)
    offsets = read.offsets(16, structure.ranges)
    return [
        Row(
            item,
            modality,
            form,
            hashes[index],
            pad_values[index],
            identities[index],
            offsets[index],
            attributes,
            tensors[start:end],
        )
        for index, ((item, modality, form, attributes), (start, end)) in enumerate(
            zip(fixed.rows, fixed.row_tensors, strict=True)
        )
    ]


class _Fixed(NamedTuple):
    """The columns that do not change from one request of a model to the next."""

    rows: tuple[tuple[int, str, str | None, str | None], ...]
    row_tensors: tuple[tuple[int, int], ...]
    tensors: tuple[tuple[str, str, str, str | None], ...]
    shape: tuple[tuple[int, int], ...]
    data: tuple[tuple[int, int], ...]


def _cut(values: Sequence[Any], ranges: Sequence[tuple[int, int]]) -> list[Any]:
    return [values[start:end] for start, end in ranges]


@lru_cache(maxsize=512)
def _remembered(
    structure: Structure, before: tuple[Any, ...], middle: tuple[Any, ...], after: tuple[Any, ...]
) -> _Fixed:
    # The rest of the values is not looked at, so any will do.
    layout = layout_of(structure)
    first, second, third = _variable(layout)
    values = (
        *before,
        *[0] * (first.stop - first.start),
        *middle,
        *[0] * (second.stop - second.start),
        *after,
        *[0] * (third.stop - third.start),
    )
    return _Reader(structure, layout, values).read_fixed()


def _variable(layout: Layout) -> tuple[slice, slice, slice]:
    """Return where hash to offsets, extents and views stand among the values."""
    slices = layout.slices
    return (
        slice(slices[8].start, slices[22].stop),
        slices[38],
        slices[48],
    )


class _Reader:
    """Make values from the column buffers, each named by its place in the schema's order."""

    __slots__ = ("layout", "nulls", "slices", "structure", "values")

    def __init__(self, structure: Structure, layout: Layout, values: tuple[Any, ...]) -> None:
        self.structure = structure
        self.layout = layout
        self.nulls = dict(zip(NULLABLE, structure.nulls, strict=True))
        self.slices = layout.slices
        self.values = values

    def fixed_columns(self) -> _Fixed:
        first, second, third = _variable(self.layout)
        values = self.values
        parts = (
            values[: first.start],
            values[first.stop : second.start],
            values[second.stop : third.start],
        )
        if sum(map(len, parts)) > REMEMBERED_VALUES or self.layout.columns.size > REMEMBERED_NBYTES:
            return self.read_fixed()
        return _remembered(self.structure, *parts)

    def read_fixed(self) -> _Fixed:
        structure = self.structure
        return _Fixed(
            tuple(
                zip(
                    self.values[self.slices[1]],
                    self.text(2),
                    self.nullable_text(5),
                    self.nullable_text(23),
                    strict=True,
                )
            ),
            tuple(pairwise(self._ends(27, structure.tensors))),
            tuple(
                zip(
                    self.text(29),
                    self.text(32),
                    self.text(39),
                    self.nullable_text(42),
                    strict=True,
                )
            ),
            tuple(pairwise(self._ends(36, structure.extents))),
            tuple(pairwise(self._ends(46, structure.chunks))),
        )

    def nullable(self, at: int, values: Sequence[Any]) -> Sequence[Any]:
        if not self.nulls[at]:
            return values
        bits = int.from_bytes(self.values[self.slices[at].start], "little")
        if bits.bit_count() != len(values) - self.nulls[at] or bits >> len(values):
            raise DecodeError(
                f"expected {self.nulls[at]} nulls and zero bits behind the values",
                path=f"$.buffers[{at}]",
                code="nulls",
            )
        return [value if bits >> index & 1 else None for index, value in enumerate(values)]

    def _ends(self, at: int, total: int) -> tuple[int, ...]:
        ends: tuple[int, ...] = self.values[self.slices[at]]
        if ends[0] != 0 or ends[-1] != total or (len(ends) > 2 and list(ends) != sorted(ends)):
            raise DecodeError(
                f"expected offsets that rise from 0 to {total}",
                path=f"$.buffers[{at}]",
                code="offsets",
            )
        return ends

    def text(self, at: int) -> list[str]:
        data: bytes = self.values[self.slices[at + 2].start]
        ends = self._ends(at + 1, len(data))
        try:
            return [str(data[start:end], "utf-8") for start, end in pairwise(ends)]
        except UnicodeDecodeError as error:
            raise DecodeError(
                "expected UTF-8 text", path=f"$.buffers[{at + 2}]", code="utf8"
            ) from error

    def nullable_text(self, at: int) -> Sequence[str | None]:
        return self.nullable(at, self.text(at))

    def offsets(self, at: int, count: int) -> Sequence[Any]:
        starts, stops = self.values[self.slices[at + 4]], self.values[self.slices[at + 6]]
        ranges = list(zip(starts, stops, strict=True))
        return self.nullable(at, _cut(ranges, list(pairwise(self._ends(at + 1, count)))))

    def views(self, variadic: Sequence[Bytes | Place]) -> list[Bytes | Place]:
        chunks: list[Bytes | Place] = []
        used = 0
        views: bytes = self.values[self.slices[48].start]
        for nbytes, prefix, index, offset in _VIEW.iter_unpack(views):
            if 0 <= nbytes <= INLINE_NBYTES:
                value = views[16 * len(chunks) + 4 : 16 * len(chunks) + 16]
                if any(value[nbytes:]):
                    raise DecodeError("expected zeros behind an inline value", code="inline")
                chunks.append(value[:nbytes])
                continue
            if index != used or offset != 0 or used >= len(variadic):
                raise DecodeError(
                    f"expected a view of the whole of data buffer {used}, "
                    f"got {nbytes} bytes at {offset} of data buffer {index}",
                    code="view",
                )
            chunk = variadic[used]
            if len(chunk) != nbytes:
                raise DecodeError(
                    f"expected a view of the {len(chunk)} bytes of data buffer {used}, "
                    f"got {nbytes}",
                    code="view",
                )
            if isinstance(chunk, Place):
                chunk.prefix = prefix
            elif bytes(memoryview(chunk)[:4]) != prefix:
                raise DecodeError(
                    f"expected the first bytes of data buffer {used} in its view",
                    code="view-prefix",
                )
            used += 1
            chunks.append(chunk)
        if used != len(variadic):
            raise DecodeError(f"expected {used} data buffers, got {len(variadic)}", code="view")
        return chunks
