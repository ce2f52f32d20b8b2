"""mmformat export: messages as an Arrow file or a Parquet file, for tools that read no streams."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

from mmformat.cli.files import add_paths, each_message
from mmformat.cli.options import Subparsers, UsageError, add_command
from mmformat.cli.output import Output, megabytes

__all__ = ["register"]

_EPILOG: Final = """\
examples:
  mmformat export x.arrows -o x.arrow      Arrow's file format: polars.scan_ipc, DuckDB, pandas
  mmformat export recordings/ -o all.parquet

exit status: 0 written; 1 a message breaks a promise of the format; 3 one could not be read
"""


def register(subparsers: Subparsers) -> None:
    """Add the command."""
    parser = add_command(
        subparsers,
        "export",
        run=run,
        caption="write messages as an Arrow file or a Parquet file",
        description="Write the rows of messages as one table: an Arrow file (.arrow, .feather) or "
        "a Parquet file\n(.parquet). Every message is verified first.",
        epilog=_EPILOG,
    )
    add_paths(parser)
    parser.add_argument(
        "-o", "--output", required=True, metavar="FILE", help="a .arrow, .feather or .parquet file"
    )


def run(arguments: argparse.Namespace, output: Output) -> int:
    """Export every message, or none when one is broken."""
    from mmformat.codec.verify import verify
    from mmformat.dataset.table import FORMATS, write_table

    target = Path(arguments.output)
    if target.suffix not in FORMATS:
        raise UsageError(f"--output must end in {', '.join(FORMATS)}, got {target.name!r}")
    found, complete = each_message(arguments, output, verify)
    broken = [(path, findings) for path, findings in found if findings]
    for path, findings in broken:
        output.error(f"{path} is broken: {findings[0].message}", hint=f"mmformat verify {path}")
    if not complete or broken:
        return 1 if complete else 3
    if any(str(path) == "-" for path, _ in found):
        raise UsageError("export reads files and folders, got -")
    rows = write_table([path for path, _ in found], target)
    nbytes = target.stat().st_size
    if output.wants_json:
        output.json({"path": str(target), "rows": rows, "nbytes": nbytes})
    else:
        output.note(f"wrote {target}: {rows} rows, {megabytes(nbytes)}")
    return 0
