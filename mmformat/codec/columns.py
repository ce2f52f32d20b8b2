"""Rows written to Arrow columns, and read back, by the table of columns."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from operator import attrgetter, itemgetter
from typing import Any, Final, NamedTuple, TypeAlias

from mmformat._arrow import Buffer
from mmformat.codec.record_batch import Layout, Structure, layout_of
from mmformat.codec.schema import COLUMNS, RANGE, TENSOR, Column
from mmformat.errors import DecodeError
from mmformat.model.limits import Limits
from mmformat.model.tensors import StridedBytes

__all__ = [
    "CHUNK_NBYTES",
    "DICTIONARY",
    "INLINE_NBYTES",
    "PLAIN",
    "VIEW",
    "Bytes",
    "Chunk",
    "Place",
    "Row",
    "TensorEntry",
    "read_rows",
    "write_rows",
]

INLINE_NBYTES: Final = 12
"""A view of at most this many bytes holds its value itself (Arrow, Variable-size Binary View)."""

CHUNK_NBYTES: Final = 2**30
"""A larger tensor is cut into views of this many bytes; a view's length is an int32."""

VIEW: Final = struct.Struct("<i4sii")
_INLINE: Final = struct.Struct("<i12s")


class Place:
    """The place and length of bytes that are not read.

    Parameters
    ----------
    at : int
        Byte of the message.
    nbytes : int
        Decompressed bytes; also the length.
    stored_nbytes : int
        Bytes in the message.

    Attributes
    ----------
    prefix : bytes
        The first bytes, according to the view.
    """

    __slots__ = ("at", "nbytes", "prefix", "stored_nbytes")

    def __init__(self, at: int, *, nbytes: int, stored_nbytes: int) -> None:
        self.at = at
        self.prefix = b""
        self.nbytes = nbytes
        self.stored_nbytes = stored_nbytes

    def __len__(self) -> int:
        return self.nbytes


Bytes: TypeAlias = Buffer | memoryview | bytes
"""A buffer, not copied."""

Chunk: TypeAlias = Bytes | StridedBytes
"""A buffer to write; StridedBytes are copied only when they are written."""

PLAIN = "plain"
DICTIONARY = "dictionary"


class TensorEntry(NamedTuple):
    """An element of the ``tensors`` column.

    Parameters
    ----------
    name : str
        Path of the tensor in the item, such as ``model_specific_data['image_grid_thw']``.
    dtype : str
        Element type after decoding.
    shape : tuple of int
        Extents after decoding.
    encoding : {"plain", "dictionary"}
        How ``data`` makes the tensor.
    parameters : str or None
        The encoding's parameters, JSON.
    data : list of bytes, or of Place when they are not to be read
        Plain: the chunks. Dictionary: the table, then the chunks of the codes.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    encoding: str
    parameters: str | None
    data: list[Any]

    @property
    def stored_nbytes(self) -> int:
        """Bytes of the data, as encoded and before any compression."""
        return sum(len(chunk) for chunk in self.data)


@dataclass(slots=True)
class Row:
    """A row: an item's, its continuation with more tensors, or the request's."""

    item: int
    modality: str
    format: str | None = None
    hash: str | None = None
    pad_value: int | None = None
    identity: str | None = None
    offsets: list[tuple[int, int]] | None = None
    attributes: str | None = None
    tensors: list[TensorEntry] = field(default_factory=list)


_MEMBERS: Final[dict[Column, Callable[[Any], Any]]] = {
    **{column: attrgetter(column.name) for column in COLUMNS},
    **{column: attrgetter(column.name) for column in TENSOR.children},
    **{column: itemgetter(at) for at, column in enumerate(RANGE.children)},
}
"""The value of a column in a row, of a tensor's field in its entry, of a bound in its range."""

_MAKERS: Final[dict[Column, Any]] = {TENSOR: TensorEntry, RANGE: lambda *bounds: bounds}


def write_rows(rows: Sequence[Row]) -> tuple[Structure, bytes, list[Chunk]]:
    """Return the batch's structure, its column buffers as they lie in the body, and the tensors.

    Notes
    -----
    **Copies**: tensors of 12 bytes or fewer, and 4 bytes of each other one, as Arrow's views have.
    """
    write = _Writer()
    for column in COLUMNS:
        write.array(column, [_MEMBERS[column](row) for row in rows])
    structure = Structure(tuple(write.lengths), tuple(write.nulls), tuple(write.texts))
    return structure, layout_of(structure).columns.pack(*write.values), write.variadic


class _Writer:
    """Collect the values of all column buffers in schema order."""

    __slots__ = ("lengths", "nulls", "texts", "values", "variadic")

    def __init__(self) -> None:
        self.values: list[int | bytes] = []
        self.lengths: list[int] = []
        self.nulls: list[int] = []
        self.texts: list[int] = []
        self.variadic: list[Chunk] = []

    def array(self, array: Column, values: list[Any]) -> None:
        if array.level == len(self.lengths):
            self.lengths.append(len(values))
        bitmap = b""
        if array.nullable:
            nulls = values.count(None)
            self.nulls.append(nulls)
            if nulls:
                bits = sum([1 << at for at, value in enumerate(values) if value is not None])
                bitmap = bits.to_bytes((len(values) + 7) // 8, "little")
        self.values.append(bitmap)
        if array.kind == "text":
            parts = [value.encode() if value else b"" for value in values]
            text = b"".join(parts)
            self.texts.append(len(text))
            self.values += (*accumulate(map(len, parts), initial=0), text)
        elif array.kind == "list":
            lists = [value or () for value in values] if bitmap else values
            self.values += accumulate(map(len, lists), initial=0)
            self.array(array.children[0], [element for each in lists for element in each])
        elif array.kind == "struct":
            for child in array.children:
                member = _MEMBERS[child]
                self.array(child, [member(value) for value in values])
        elif array.kind == "view":
            self.values.append(b"".join([self._view(chunk) for chunk in values]))
        else:
            self.values += [value or 0 for value in values] if bitmap else values

    def _view(self, chunk: Chunk) -> bytes:
        nbytes = len(chunk)
        if nbytes <= INLINE_NBYTES:
            return _INLINE.pack(nbytes, bytes(chunk))  # type: ignore[arg-type]
        self.variadic.append(chunk)
        head = chunk.head() if isinstance(chunk, StridedBytes) else bytes(memoryview(chunk)[:4])
        return VIEW.pack(nbytes, head, len(self.variadic) - 1, 0)


def read_rows(
    structure: Structure, columns: Bytes, variadic: Sequence[Bytes | Place], limits: Limits
) -> list[Row]:
    """Read rows from column buffers as they lie in a body, and check every value.

    Raises
    ------
    DecodeError
        If offsets, nulls, views or text are not what Arrow and the schema demand.
    LimitError
        If a tensor has more axes or chunks than the limits allow.

    Notes
    -----
    **Copies**: the columns' values, and tensors of 12 bytes or fewer; other tensors stay views.
    A data buffer given as a Place is not read: its length is checked, its first bytes are not, and
    the prefix in its view is stored in the Place.
    """
    layout = layout_of(structure)
    read = _Reader(structure, layout, layout.columns.unpack_from(columns), variadic)
    made = [Row(*values) for values in zip(*map(read.array, COLUMNS), strict=True)]
    for row in made:
        for entry in row.tensors:
            limits.check("dimensions", len(entry.shape))
            limits.check("chunks", len(entry.data))
    return made


class _Reader:
    """Make the values of each array from the column buffers."""

    __slots__ = ("layout", "structure", "values", "variadic")

    def __init__(
        self,
        structure: Structure,
        layout: Layout,
        values: tuple[Any, ...],
        variadic: Sequence[Bytes | Place],
    ) -> None:
        self.structure = structure
        self.layout = layout
        self.values = values
        self.variadic = variadic

    def _buffer(self, array: Column, index: int) -> tuple[Any, ...]:
        return self.values[self.layout.slices[array.buffer + index]]

    def array(self, array: Column) -> Sequence[Any]:
        """Return the values of an array, None for each null."""
        made: Sequence[Any]
        if array.kind == "text":
            made = self._texts(array)
        elif array.kind == "list":
            child = array.children[0]
            ends = self._ends(array, self.structure.lengths[child.level])
            elements = self.array(child)
            made = [elements[start:end] for start, end in pairwise(ends)]
        elif array.kind == "struct":
            fields = [self.array(child) for child in array.children]
            make = _MAKERS[array]
            made = [make(*values) for values in zip(*fields, strict=True)]
        elif array.kind == "view":
            made = self._views(array)
        else:
            made = self._buffer(array, 1)
        return self._with_nulls(array, made)

    def _with_nulls(self, array: Column, values: Sequence[Any]) -> Sequence[Any]:
        nulls = self.structure.nulls_of(array)
        if not nulls:
            return values
        bits = int.from_bytes(self._buffer(array, 0)[0], "little")
        if bits.bit_count() != len(values) - nulls or bits >> len(values):
            raise DecodeError(
                f"the bitmap must mark {nulls} nulls and end in zero bits",
                path=f"$.buffers[{array.buffer}]",
                code="nulls",
            )
        return [value if bits >> index & 1 else None for index, value in enumerate(values)]

    def _ends(self, array: Column, total: int) -> tuple[int, ...]:
        ends = self._buffer(array, 1)
        if ends[0] != 0 or ends[-1] != total or (len(ends) > 2 and list(ends) != sorted(ends)):
            raise DecodeError(
                f"offsets must rise from 0 to {total}",
                path=f"$.buffers[{array.buffer + 1}]",
                code="offsets",
            )
        return ends

    def _texts(self, array: Column) -> list[str]:
        data: bytes = self._buffer(array, 2)[0]
        ends = self._ends(array, len(data))
        try:
            return [str(data[start:end], "utf-8") for start, end in pairwise(ends)]
        except UnicodeDecodeError as error:
            raise DecodeError(
                "text is not valid UTF-8", path=f"$.buffers[{array.buffer + 2}]", code="utf8"
            ) from error

    def _views(self, array: Column) -> list[Bytes | Place]:
        chunks: list[Bytes | Place] = []
        used = 0
        variadic = self.variadic
        views: bytes = self._buffer(array, 1)[0]
        for nbytes, prefix, index, offset in VIEW.iter_unpack(views):
            if 0 <= nbytes <= INLINE_NBYTES:
                value = views[16 * len(chunks) + 4 : 16 * len(chunks) + 16]
                if any(value[nbytes:]):
                    raise DecodeError("an inline value must be padded with zeros", code="inline")
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
                    f"the view of data buffer {used} must hold its first 4 bytes",
                    code="view-prefix",
                )
            used += 1
            chunks.append(chunk)
        if used != len(variadic):
            raise DecodeError(
                f"{used} views use data buffers, the batch has {len(variadic)}", code="view"
            )
        return chunks
