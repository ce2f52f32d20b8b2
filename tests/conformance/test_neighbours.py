"""Other libraries open every valid vector: the same rows, names and tensor bytes."""

from __future__ import annotations

import hashlib
import io
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import arro3.io
import duckdb
import lz4.frame
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmformat.codec import decode, encode
from mmformat.codec.chained_buffer import open_chained
from mmformat.codec.describe import MessageDescription, describe
from mmformat.codec.stream import find_batches
from mmformat.model import Limits, MultimodalDataItem, MultimodalInputs
from mmformat.testing import Vector, assert_inputs_equal, golden_vectors

# A list per row; a row is (item, modality, [(name, dtype, encoding, shape, [sha256 of a chunk])]).
Rows = list[tuple[int, str, list[tuple[str, str, str, list[int], list[str]]]]]
VALID = golden_vectors("valid")


def _rows(records: list[dict[str, Any]]) -> Rows:
    return [
        (
            record["item"],
            record["modality"],
            [
                (
                    tensor["name"],
                    tensor["dtype"],
                    tensor["encoding"],
                    list(tensor["shape"]),
                    [hashlib.sha256(bytes(chunk)).hexdigest() for chunk in tensor["data"]],
                )
                for tensor in record["tensors"]
            ],
        )
        for record in records
    ]


def _ours(data: bytes) -> Rows:
    """Read by our own reader: a row an item, the chunks as the columns have them."""
    from mmformat.codec.stream import read_batches

    rows = [row for batch in read_batches(open_chained(data), Limits()) for row in batch]
    return [
        (
            row.item,
            row.modality,
            [
                (
                    entry.name,
                    entry.dtype,
                    entry.encoding,
                    list(entry.shape),
                    [hashlib.sha256(bytes(memoryview(chunk))).hexdigest() for chunk in entry.data],
                )
                for entry in row.tensors
            ],
        )
        for row in rows
    ]


def _table(data: bytes) -> pa.Table:
    with pa.ipc.open_stream(pa.py_buffer(data)) as reader:
        batches = list(reader)
        for batch in batches:
            batch.validate(full=True)
        return pa.Table.from_batches(batches, reader.schema)


def _by_pyarrow(data: bytes, path: Path) -> Rows:
    return _rows(_table(data).to_pylist())


def _by_polars(data: bytes, path: Path) -> Rows:
    return _rows(pl.read_ipc_stream(path).to_dicts())


def _by_duckdb(data: bytes, path: Path) -> Rows:
    # DuckDB scans Arrow's C stream; it has the values from Arrow's memory and makes its own.
    message = _table(data)  # noqa: F841 - found by its name in the query
    with duckdb.connect() as connection:
        found = connection.sql("select * from message")
        names = found.columns
        return _rows([dict(zip(names, row, strict=True)) for row in found.fetchall()])


def _by_arro3(data: bytes, path: Path) -> Rows:
    reader = arro3.io.read_ipc_stream(path)
    table = pa.table(reader.read_all())
    table.validate(full=True)
    return _rows(table.to_pylist())


def _by_polars_from_arrow(data: bytes, path: Path) -> Rows:
    return _rows(pl.from_arrow(_table(data)).to_dicts())


def _by_pandas(data: bytes, path: Path) -> Rows:
    return _rows(_table(data).to_pandas(types_mapper=pd.ArrowDtype).to_dict("records"))


def _wide(kind: pa.DataType) -> pa.DataType:
    """As in docs/recipes.md: `large_binary` in the place of binary views."""
    if pa.types.is_binary_view(kind):
        return pa.large_binary()
    if pa.types.is_list(kind):
        return pa.list_(kind.value_field.with_type(_wide(kind.value_type)))
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_wide(field.type)) for field in kind])
    return kind


def _cast(table: pa.Table) -> pa.Table:
    return table.cast(pa.schema([field.with_type(_wide(field.type)) for field in table.schema]))


def _by_parquet(data: bytes, path: Path) -> Rows:
    file = io.BytesIO()
    pq.write_table(_cast(_table(data)), file, compression="zstd")
    return _rows(pq.read_table(file).to_pylist())


def _by_parquet_of_views(data: bytes, path: Path) -> Rows:
    file = io.BytesIO()
    pq.write_table(_table(data), file)
    return _rows(pq.read_table(file).to_pylist())


READERS: dict[str, Callable[[bytes, Path], Rows]] = {
    "pyarrow": _by_pyarrow,
    "polars": _by_polars,
    "polars-from-arrow": _by_polars_from_arrow,
    "duckdb": _by_duckdb,
    "arro3": _by_arro3,
    "pandas": _by_pandas,
    "parquet": _by_parquet,
    "parquet-of-views": _by_parquet_of_views,
}
"""The ways of docs/recipes.md, and pyarrow's own."""
each_reader = pytest.mark.parametrize("reader", READERS.values(), ids=READERS)


@each_reader
@pytest.mark.parametrize("vector", VALID, ids=lambda vector: vector.name)
def test_every_valid_vector_opens(vector: Vector, reader: Callable[[bytes, Path], Rows]) -> None:
    """Clauses: L-18. Rows, names, types, shapes and every chunk's bytes are equal."""
    assert reader(vector.read(), vector.path) == _ours(vector.read())


def test_every_valid_vector_goes_through_lance(tmp_path: Path) -> None:
    """Clauses: L-18. Cast first, as docs/recipes.md says."""
    lance = pytest.importorskip(
        "lance", reason="needs pylance, which is 200 MB: pip install pylance"
    )
    for vector in VALID:
        folder = tmp_path / vector.name
        lance.write_dataset(_cast(_table(vector.read())), folder)
        found = _rows(lance.dataset(folder).to_table().to_pylist())
        assert found == _ours(vector.read()), vector.name


@pytest.fixture(scope="module")
def two_sizes() -> MultimodalInputs:
    generator = np.random.default_rng(7)
    # 12 MB that shrink (pixels repeat), and 1 MB: over and under the threshold.
    large = np.repeat(generator.integers(0, 256, 3_000_000 // 4, np.uint8), 4).astype(np.float32)
    small = generator.standard_normal(250_000, np.float32)
    return MultimodalInputs(
        items=[
            MultimodalDataItem(modality="IMAGE", feature=large.reshape(1000, -1)),
            MultimodalDataItem(modality="IMAGE", feature=small),
        ]
    )


def test_a_large_and_a_small_tensor_make_a_compressed_and_a_plain_batch(
    two_sizes: MultimodalInputs, tmp_path: Path
) -> None:
    """Clauses: Z-1, Z-4. They open in every reader."""
    message = encode(two_sizes, "lz4")
    told = describe(message)
    assert [batch.compressed for batch in told.batches] == [False, True]
    assert [(t.nbytes, t.compressed) for t in told.tensors] == [
        (12_000_000, True),
        (1_000_000, False),
    ]
    assert told.tensors[0].stored_nbytes < 6_000_000
    assert_inputs_equal(decode(message), two_sizes)
    path = tmp_path / "two.arrows"
    message.save(path)
    data = path.read_bytes()
    expected = _ours(data)
    for name, reader in READERS.items():
        assert reader(data, path) == expected, name


def _compressed_places(data: bytes) -> list[tuple[int, int]]:
    """Offset in the message and stored length of every buffer of the compressed batches."""
    places = []
    for batch in find_batches(open_chained(data), Limits()):
        flat = batch.metadata.buffers
        if batch.metadata.compressed:
            pairs = zip(flat[::2], flat[1::2], strict=True)
            places += [(batch.body_at + at, nbytes) for at, nbytes in pairs]
    return places


def test_the_lz4_package_undoes_every_compressed_buffer(two_sizes: MultimodalInputs) -> None:
    """Clauses: Z-2. Independently of Arrow: each is its length and one LZ4 frame of that length."""
    data = bytes(encode(two_sizes, "lz4"))
    places = _compressed_places(data)
    made = []
    for at, nbytes in places:
        if nbytes:
            (length,) = struct.unpack_from("<q", data, at)
            if length == -1:
                continue
            made.append(lz4.frame.decompress(data[at + 8 : at + nbytes]))
            assert len(made[-1]) == length
    chunks = -(-two_sizes.items[0].feature.nbytes // 2**20)
    assert b"".join(made[-chunks:]) == two_sizes.items[0].feature.tobytes()
    told: MessageDescription = describe(data)
    assert [chunk.at for chunk in told.tensors[0].chunks] == [at for at, _ in places[-chunks:]]


@pytest.mark.parametrize("name", ["lz4", "lz4-stored"])
def test_the_lz4_package_agrees_on_the_vectors(name: str) -> None:
    vector = next(vector for vector in VALID if vector.name == name)
    data = vector.read()
    places = [place for place in _compressed_places(data) if place[1]]
    assert places
    stored = 0
    for at, nbytes in places:
        (length,) = struct.unpack_from("<q", data, at)
        if length == -1:
            stored += 1
            continue
        assert len(lz4.frame.decompress(data[at + 8 : at + nbytes])) == length
    assert stored == (name == "lz4-stored")


def test_a_frame_of_the_lz4_package_is_read(two_sizes: MultimodalInputs) -> None:
    """Clauses: Z-2. Frames of another writer, with other blocks and checksums."""
    from tests.support.attacks import _with_buffer
    from tests.support.forgery import batch, item, message, tensor

    values = bytes(range(256)) * 64
    plain = batch(item(0, attributes={"feature": {"$ndarray": "feature"}}))
    row = item(
        0,
        tensor(dtype="uint8", shape=(len(values),), data=[values]),
        attributes=None,
        format=None,
    )
    frame = lz4.frame.compress(values, content_checksum=True, block_checksum=True, block_size=4)
    packed = _with_buffer(batch(row, compressed=True), 49, struct.pack("<q", len(values)) + frame)
    data = message(plain, packed)
    assert decode(data).items[0].feature.tobytes() == values
    assert _by_pyarrow(data, Path()) == _ours(data)


def _documented() -> dict[str, Any]:
    """Return the functions of docs/recipes.md, from the document itself."""
    text = (Path(__file__).parents[2] / "docs" / "recipes.md").read_text("utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    namespace: dict[str, Any] = {"Path": Path}
    for name in ("messages", "wide"):
        (block,) = (each for each in blocks if f"def {name}(" in each)
        # What comes behind the function is about the document's own files.
        exec(block[: block.index("\n\n", block.rindex("    return "))], namespace)
    return namespace


def test_the_documented_table_holds_every_vector(tmp_path: Path) -> None:
    """The recipes' own functions, over a folder of all valid vectors, in DuckDB and Parquet."""
    recipes = _documented()
    for vector in VALID:
        (tmp_path / f"{vector.name}.arrows").write_bytes(vector.read())
    requests = recipes["messages"](tmp_path)
    requests.validate(full=True)
    assert "data" not in [field.name for field in requests["tensors"].type.value_type]
    expected = sum(len(_ours(vector.read())) for vector in VALID)
    assert requests.num_rows == expected
    with duckdb.connect() as connection:
        (found,) = connection.sql(
            "with tensor as (select file, unnest(tensors, recursive := true) from requests) "
            "select count(*), count(distinct file) from tensor"
        ).fetchall()
    rows = [(vector.name, row) for vector in VALID for row in _ours(vector.read())]
    assert found[0] == sum(len(row[2]) for _, row in rows)
    assert found[1] == len({name for name, row in rows if row[2]})
    whole = recipes["messages"](tmp_path, data=True)
    schema = pa.schema([field.with_type(recipes["wide"](field.type)) for field in whole.schema])
    pq.write_table(whole.cast(schema), tmp_path / "all.parquet")
    for vector in VALID:
        part = pq.read_table(tmp_path / "all.parquet", filters=[("file", "==", vector.name)])
        assert _rows(part.to_pylist()) == _ours(vector.read()), vector.name
