"""The one table of columns: places, writer and reader agree with Arrow's own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import ipc

from mmformat.codec.columns import Place, Row, TensorEntry, read_rows, write_rows
from mmformat.codec.record_batch import layout_of, places, structure_of
from mmformat.codec.schema import ARRAYS, BUFFERS, COLUMNS, SCHEMA, SCHEMA_MESSAGE, Column
from mmformat.errors import DecodeError, LimitError
from mmformat.model import Limits
from tests.support.forgery import batch, item, message, tensor

LIMITS = Limits()


def array(name: str) -> Column:
    (found,) = [each for each in ARRAYS if each.name == name]
    return found


def rows() -> list[Row]:
    return [
        item(0, tensor("a"), tensor("é", "uint8", (3,)), hash="1", pad_value=-1, identity="x"),
        item(1, offsets=[(1, 2), (3, 4)], format=None, attributes="{}"),
        item(2, tensor("b", "int16", (0, 5), data=[]), offsets=[], hash="-22", identity=""),
        Row(-1, "REQUEST", attributes="{}", tensors=[tensor("c", data=[bytes(20), bytes(12)])]),
    ]


def test_the_arrow_schema_is_that_of_the_table() -> None:
    assert SCHEMA.names == [column.name for column in COLUMNS]
    assert ipc.read_schema(pa.py_buffer(SCHEMA_MESSAGE)).equals(SCHEMA, check_metadata=True)


def test_nodes_and_buffers_are_numbered_as_arrow_does() -> None:
    stream = message(batch(*rows()))
    (found,) = ipc.open_stream(stream)
    counts = []

    def walk(values: Any) -> None:
        counts.append(len(values))
        if pa.types.is_list(values.type):
            walk(values.values)
        elif pa.types.is_struct(values.type):
            for index in range(values.type.num_fields):
                walk(values.field(index))

    for column in found.columns:
        walk(column)
    assert [each.node for each in ARRAYS] == list(range(len(ARRAYS)))
    structure, _, _ = write_rows(rows())
    assert [structure.lengths[each.level] for each in ARRAYS] == counts
    starts = [each.buffer for each in ARRAYS]
    assert starts == [sum(each.buffers for each in ARRAYS[:at]) for at in range(len(ARRAYS))]
    assert ARRAYS[-1].buffer + ARRAYS[-1].buffers == BUFFERS


def test_arrow_reads_the_values_that_were_written() -> None:
    found = ipc.open_stream(message(batch(*rows()))).read_all().to_pylist()
    for row, values in zip(rows(), found, strict=True):
        for column in COLUMNS[:-1]:
            expected = getattr(row, column.name)
            if column.name == "offsets" and expected is not None:
                expected = [{"start": start, "end": end} for start, end in expected]
            assert values[column.name] == expected
        for entry, told in zip(row.tensors, values["tensors"], strict=True):
            assert told == {**entry._asdict(), "shape": list(entry.shape)}


def test_rows_come_back_as_they_were_written() -> None:
    structure, columns, variadic = write_rows(rows())
    again = read_rows(structure, columns, variadic, LIMITS)
    for row, found in zip(rows(), again, strict=True):
        expected = [entry._replace(data=[bytes(c) for c in entry.data]) for entry in row.tensors]
        entries = [entry._replace(data=[bytes(c) for c in entry.data]) for entry in found.tensors]
        assert entries == expected
        for column in COLUMNS[:-1]:
            assert getattr(found, column.name) == getattr(row, column.name)
    layout = layout_of(structure)
    assert structure_of(layout.nodes, layout.lengths) == structure
    assert places(layout.lengths)[1] == layout.columns.size == len(columns)


@pytest.mark.parametrize(
    ("name", "index", "value", "code"),
    [
        ("hash", 1, b"\1\0\0\0", "offsets"),
        ("modality", 2, b"\xff", "utf8"),
        ("format", 0, b"\xff", "nulls"),
        ("offsets", 1, b"\0\0\0\0\5\0\0\0", "offsets"),
        ("chunk", 1, b"\xff\xff\xff\xff", "view"),
    ],
)
def test_a_broken_buffer_is_named(name: str, index: int, value: bytes, code: str) -> None:
    structure, columns, variadic = write_rows(rows())
    buffer = array(name).buffer + index
    at = places(layout_of(structure).lengths)[0][2 * buffer]
    broken = columns[:at] + value + columns[at + len(value) :]
    with pytest.raises(DecodeError) as caught:
        read_rows(structure, broken, variadic, LIMITS)
    assert caught.value.code == code
    if code != "view":
        assert caught.value.path == f"$.buffers[{buffer}]"


def test_limits_on_axes_and_chunks() -> None:
    structure, columns, variadic = write_rows([item(0, tensor("a", shape=(1,) * 5))])
    with pytest.raises(LimitError, match="dimensions"):
        read_rows(structure, columns, variadic, Limits(dimensions=4))
    entry = TensorEntry("a", "uint8", (40,), "plain", None, [bytes(20), bytes(20)])
    structure, columns, variadic = write_rows([item(0, entry)])
    with pytest.raises(LimitError, match="chunks"):
        read_rows(structure, columns, variadic, Limits(chunks=1))


def test_a_place_stands_for_bytes_that_are_not_read() -> None:
    data = np.arange(32, dtype=np.uint8).tobytes()
    structure, columns, _ = write_rows([item(0, tensor("a", data=[data]))])
    place = Place(100, nbytes=32, stored_nbytes=9)
    (row,) = read_rows(structure, columns, [place], LIMITS)
    assert row.tensors[0].data == [place]
    assert place.prefix == data[:4]
    with pytest.raises(DecodeError, match="data buffer"):
        read_rows(structure, columns, [Place(100, nbytes=31, stored_nbytes=9)], LIMITS)
