"""mmformat convert: old pickles into messages, executing nothing of them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mmformat.cli.options import Subparsers, UsageError, add_command
from mmformat.cli.output import Output, megabytes
from mmformat.cli.recognize import missing, recognize

if TYPE_CHECKING:
    from mmformat.legacy.batch.conversion import ConversionSummary

__all__ = ["register"]

_CONVERTIBLE: Final = ("a pickle", "a zip file, perhaps of torch.save")

_EPILOG: Final = """\
examples:
  mmformat convert request.pkl -o out/
  mmformat convert dumps/ 'more/*.pt' -o out/ --verify --compression lz4
  mmformat convert dumps/ -o out/ --dry-run --json | jq '.results[] | select(.status == "failed")'

A second run does only what is left; --again does everything once more.
exit status: 0 every file was converted; 1 one was not, and the others were
"""


def register(subparsers: Subparsers) -> None:
    """Add the command."""
    parser = add_command(
        subparsers,
        "convert",
        run=run,
        caption="turn old pickles into messages, executing nothing of them",
        description="Read pickles of SGLang, vLLM, torch.save and plain tensors by an allow-list "
        "of exact names, in\na child process that can open nothing, and write each request as a "
        "message. A bad file never\nstops the others.",
        epilog=_EPILOG,
    )
    parser.add_argument("sources", nargs="+", metavar="SRC", help="files, folders or globs")
    parser.add_argument("-o", "--output", required=True, metavar="DST", help="folder of messages")
    parser.add_argument("--verify", action="store_true", help="decode what was written and compare")
    parser.add_argument("--dry-run", action="store_true", help="read everything, write nothing")
    parser.add_argument("--again", action="store_true", help="also what an earlier run has done")
    parser.add_argument(
        "--force", action="store_true", help="replace files that were not made from the same source"
    )
    parser.add_argument(
        "--compression", choices=("lz4", "zstd", "auto"), help="for tensors over 10 MiB"
    )
    parser.add_argument(
        "--workers", type=int, metavar="N", help="files at a time (default: the cores)"
    )
    parser.add_argument(
        "--sglang-version",
        metavar="X.Y.Z",
        help="what wrote the files, where they do not say it themselves",
    )


def run(arguments: argparse.Namespace, output: Output) -> int:
    """Convert: 0 when every file was, 1 when one was not."""
    from mmformat.legacy.batch.conversion import convert_files

    for source in arguments.sources:
        # A glob may match nothing; a name without wildcards is a file that must be there.
        if not any(mark in source for mark in "*?[") and not Path(source).exists():
            raise missing(source)
        known = recognize(Path(source))
        if known is not None and known.noun not in _CONVERTIBLE:
            raise UsageError(f"{source} is {known.noun}, not a pickle", hint=known.hint)
    options: dict[str, Any] = {}
    if arguments.workers is not None:
        options["workers"] = arguments.workers
    with output.progress("convert") as follow:
        summary = convert_files(
            arguments.sources,
            arguments.output,
            verify=arguments.verify,
            dry_run=arguments.dry_run,
            again=arguments.again,
            force=arguments.force,
            compression=arguments.compression,
            sglang_version=arguments.sglang_version,
            progress=lambda result, done, total: follow(result.source, done / max(1, total)),
            **options,
        )
    if output.wants_json:
        output.json(summary.as_dict())
    else:
        _show(summary, output)
    for result in summary.results:
        if result.error is not None:
            output.error(
                f"{result.source}: {result.error['message']}", hint=result.error.get("hint")
            )
    return 0 if summary.ok else 1


def _show(summary: ConversionSummary, output: Output) -> None:
    values = summary.as_dict()
    words = ("converted", "convertible", "done_before", "failed", "verified")
    rows = [(word.replace("_", " "), values[word]) for word in words if values[word]]
    rows += [("requests", values["requests"]), ("tensors", values["tensors"])]
    rows += [
        ("read", megabytes(values["source_nbytes"])),
        ("written", megabytes(values["output_nbytes"])),
        ("seconds", f"{values['duration_s']:.1f}"),
    ]
    output.table(("files", str(values["sources"])), rows, right=[str(values["sources"])])
    if summary.journal is not None:
        output.note(f"what is done is noted in {summary.journal}")
    changed = [
        (result.source, note["path"], note["kind"], note["text"])
        for result in summary.results
        for note in (result.report or {}).get("notes", [])
        if note["kind"] == "changed"
    ]
    if changed:
        output.table(("source", "where", "what", "how"), changed, title="what is not as it was")
