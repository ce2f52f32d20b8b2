"""mmformat demo: photographs to every rank through shared memory, checked bit for bit."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Final

from mmformat.cli.options import Subparsers, add_command
from mmformat.cli.output import Output, megabytes

if TYPE_CHECKING:
    from mmformat.demo import DemoReport

__all__ = ["register"]

_EPILOG: Final = """\
examples:
  mmformat demo
  mmformat demo --tp 2 --requests 8
  mmformat demo --encoding dictionary          bytes and a table in place of floats
  mmformat demo --json | jq .stages.mmformat.all.median

exit status: 0 every tensor of every rank is bit-identical and nothing is left in /dev/shm;
1 not so; 3 could not run
"""

_DESCRIPTION: Final = """\
Materialize real photographs in this process, encode each request once into a shared arena,
announce it to rank processes over ZeroMQ, decode it there without a copy, and compare the
SHA-256 of every tensor of every rank; beside pickle 5 through the same sockets.
"""


def register(subparsers: Subparsers) -> None:
    """Add the command."""
    parser = add_command(
        subparsers,
        "demo",
        run=run,
        caption="photographs to four ranks, checked bit for bit",
        description=_DESCRIPTION,
        epilog=_EPILOG,
    )
    parser.add_argument(
        "--tp", type=_up_to(64), default=4, metavar="N", help="rank processes (default: 4)"
    )
    parser.add_argument(
        "--requests",
        type=_up_to(1000),
        default=4,
        metavar="N",
        help="requests of three images each (default: 4)",
    )
    parser.add_argument(
        "--encoding",
        choices=("plain", "dictionary"),
        default="plain",
        help="how pixels travel (default: %(default)s)",
    )
    parser.add_argument(
        "--compression",
        choices=("none", "lz4", "auto"),
        default="none",
        help="of tensors over 10 MiB (default: %(default)s)",
    )
    parser.add_argument(
        "--timeout",
        type=float,
        default=60.0,
        metavar="SECONDS",
        help="the longest wait for any rank (default: 60)",
    )


def _up_to(most: int) -> type[int]:
    class Count(int):
        def __new__(cls, text: str) -> Count:
            number = super().__new__(cls, text)
            if not 1 <= number <= most:
                raise argparse.ArgumentTypeError(f"expected 1 to {most}, got {text}")
            return number

    Count.__name__ = "number"
    return Count


def run(arguments: argparse.Namespace, output: Output) -> int:
    """Run the demo: 0 when all is as promised, else 1."""
    from mmformat._extras import require

    for module in ("torch", "zmq", "PIL.Image"):
        require(module, extra="demo")
    from mmformat.demo import DemoOptions, run_demo

    options = DemoOptions(
        ranks=int(arguments.tp),
        requests=int(arguments.requests),
        encoding=arguments.encoding,
        compression=arguments.compression,
        timeout_s=arguments.timeout,
    )
    with output.progress("demo") as follow:
        report = run_demo(options, follow)
    if output.wants_json:
        output.json(report.to_json())
    else:
        _show(report, output)
    return 0 if report.is_ok else 1


def _show(report: DemoReport, output: Output) -> None:
    from mmformat.demo.run import STAGES

    rows: list[list[object]] = []
    for stage, title in STAGES.items():
        row: list[object] = [title]
        for way in (report.own, report.pickle):
            samples = way.samples.get(stage)
            if samples is None:
                row += ["", "", ""]
                continue
            moved = way.moved_nbytes[stage]
            copies = "" if stage in ("materialize", "touch") else way.copies[stage]
            row += [
                f"{samples.median / 1e6:.2f}",
                megabytes(sum(moved) / len(moved)) if any(moved) else "",
                copies,
            ]
        rows.append(row)
    columns = ("per request", "ms", "moved", "copies", "pickle5 ms", "moved ", "copies ")
    title = (
        f"{report.images} photographs in {report.requests} requests, "
        f"{megabytes(report.tensor_nbytes)} of tensors, to {report.ranks} ranks "
        f"({report.encoding}, compression {report.compression})"
    )
    output.table(columns, rows, title=title, right=columns[1:])
    output.text(
        f"{report.tensors_identical} of {report.tensors_checked} tensors bit-identical by SHA-256, "
        f"over all ranks and both ways"
    )
    shared = report.tensors_inside + report.tensors_outside
    output.text(
        f"{report.tensors_inside} of {shared} tensors from the arena lie in its mapping"
        + ("" if report.promises_views else "; the others were expanded or decompressed")
    )
    output.text(f"announced to a rank: {report.handle_nbytes} bytes")
    left = ", ".join(report.left_in_shm) or "nothing"
    output.text(f"left in /dev/shm: {left}")
    ratio = report.pickle.samples["all"].median / report.own.samples["all"].median
    output.text(
        f"{'ok' if report.is_ok else 'NOT AS PROMISED'}: {ratio:.1f} times as fast as pickle 5"
    )
