"""Read messages with polars and DuckDB: `python examples/tables.py x.arrows`."""

from __future__ import annotations

import sys

import duckdb
import polars
import pyarrow as pa


def main() -> None:
    """Show the items of a message as both tools see them."""
    path = sys.argv[1]
    # A message is an Arrow stream; `mmformat export` writes the file format for scan_ipc.
    frame = polars.read_ipc_stream(path)
    print(frame.select("modality", polars.col("tensors").list.len().alias("tensors")))
    with pa.ipc.open_stream(path) as stream:
        items = stream.read_all()  # DuckDB finds the table by its name
    print(duckdb.sql("select modality, len(tensors) as tensors from items"))
    assert frame.height == items.num_rows


if __name__ == "__main__":
    main()
