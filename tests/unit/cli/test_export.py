"""export: the same rows in the file formats that other tools scan."""

from __future__ import annotations

import json
from pathlib import Path

import duckdb
import numpy as np
import polars
import pyarrow as pa
import pytest
from pyarrow import ipc, parquet

import mmformat as mm
from mmformat.cli.front import main


@pytest.fixture
def messages(tmp_path: Path) -> Path:
    folder = tmp_path / "messages"
    folder.mkdir()
    for number in range(3):
        feature = np.arange(100 * (number + 1), dtype=np.float32)
        item = mm.MultimodalDataItem(modality="IMAGE", feature=feature, offsets=[(3, 40)])
        mm.encode(mm.MultimodalInputs(items=[item, item])).save(folder / f"{number}.arrows")
    return folder


def _tensors(table: pa.Table) -> list[bytes]:
    return [
        b"".join(piece for piece in tensor["data"])
        for row in table.column("tensors").to_pylist()
        for tensor in row
    ]


@pytest.mark.parametrize("suffix", [".arrow", ".feather", ".parquet"])
def test_the_rows_are_the_same(
    suffix: str, messages: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / f"all{suffix}"
    assert main(["export", str(messages), "-o", str(target), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == 6
    if suffix == ".parquet":
        table = parquet.read_table(target)
    else:
        with pa.memory_map(str(target)) as source:
            table = ipc.open_file(source).read_all()
    expected = [np.arange(100 * (at // 2 + 1), dtype=np.float32).tobytes() for at in range(6)]
    assert _tensors(table) == expected
    assert target.stat().st_mode & 0o777 == 0o600


def test_other_tools_scan_what_was_exported(messages: Path, tmp_path: Path) -> None:
    arrow, columns = tmp_path / "x.arrow", tmp_path / "x.parquet"
    for target in (arrow, columns):
        assert main(["export", str(messages), "-o", str(target)]) == 0
    assert polars.scan_ipc(arrow).select("modality").collect().height == 6
    query = f"select count(*) from '{columns}' where modality = 'IMAGE'"
    assert duckdb.sql(query).fetchall() == [(6,)]


def test_a_broken_message_exports_nothing(
    messages: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = messages / "1.arrows"
    broken.write_bytes(broken.read_bytes()[:-8])
    target = tmp_path / "x.arrow"
    assert main(["export", str(messages), "-o", str(target)]) == 1
    assert f"{broken} is broken" in capsys.readouterr().err
    assert not target.exists()


def test_a_name_that_says_no_format_is_wrong_usage(messages: Path, tmp_path: Path) -> None:
    assert main(["export", str(messages), "-o", str(tmp_path / "x.csv")]) == 2


def test_a_collection_is_a_table(messages: Path) -> None:
    dataset = mm.open_dataset(messages)
    table = dataset.to_table()
    assert table.num_rows == 6
    assert len(_tensors(table)) == 6
    (messages / "2.arrows").write_bytes((messages / "2.arrows").read_bytes()[:-8])
    with pytest.raises(mm.DecodeError, match=r"2\.arrows"):
        dataset.to_table()
