"""Messages as one Arrow table, and that table as an Arrow file or a Parquet file."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from mmformat._arrow import read_tables, write_arrow_file, write_parquet_file
from mmformat._files import written_whole
from mmformat.errors import ModelError, TransportError

__all__ = ["FORMATS", "table_of", "write_table"]

FORMATS: Final = {
    ".arrow": write_arrow_file,
    ".feather": write_arrow_file,
    ".parquet": write_parquet_file,
}
"""The file formats that a table can be written in, by the end of the file's name."""


def table_of(paths: Iterable[str | os.PathLike[str]]) -> Any:
    """Return the rows of messages as one ``pyarrow.Table``, a row an item.

    Parameters
    ----------
    paths : iterable of path
        Files of messages that were verified (:func:`mmformat.codec.verify.verify`): pyarrow reads
        them without this library's checks.

    Raises
    ------
    TransportError
        If a file cannot be read.

    Notes
    -----
    **Copies**: none of an uncompressed message, which is mapped. **Lifetime**: the table keeps
    the mappings.
    """
    try:
        return read_tables([os.fspath(path) for path in paths])
    except OSError as error:
        raise TransportError(f"cannot read the messages: {error.strerror or error}") from error


def write_table(paths: Iterable[str | os.PathLike[str]], target: str | os.PathLike[str]) -> int:
    """Write the rows of messages to an Arrow file or a Parquet file, and return how many.

    The file is written whole or not at all, and is readable by its owner alone.

    Parameters
    ----------
    paths : iterable of path
        As in :func:`table_of`.
    target : path
        A name that ends in one of :data:`FORMATS`.

    Raises
    ------
    ModelError
        If the name ends otherwise.
    TransportError
        If a message cannot be read or the file cannot be written.
    """
    target = Path(target)
    write = FORMATS.get(target.suffix)
    if write is None:
        raise ModelError(f"the file must end in {', '.join(FORMATS)}, got {target.name!r}")
    table = table_of(paths)
    with written_whole(target) as file:
        write(table, file)
    return int(table.num_rows)
