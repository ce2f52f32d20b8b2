"""mmformat bench: one message by every method, on the user's own machine."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Final

from mmformat._files import written_whole
from mmformat.cli.options import Subparsers, add_command, positive
from mmformat.cli.output import Output, megabytes

if TYPE_CHECKING:
    from mmformat.bench.comparison import Comparison

__all__ = ["register"]

_EPILOG: Final = """\
examples:
  mmformat bench                            a small and a large image, in about a minute
  mmformat bench request.arrows --ranks 8   your own message
  mmformat bench old-request.pkl            an old pickle, read without executing anything of it
  mmformat bench 4x16MiB --json bench.json  four tensors of 16 MiB, raw samples in a file

payloads: image-small (0.6 MB), image (25.8 MB), images-8, video (200 MB each), or COUNTxSIZE
exit status: 0 every tensor arrived bit for bit; 1 not so; 3 could not run
"""

_DESCRIPTION: Final = """\
Carry a message from a producer to rank processes by this library's two methods, by pickle 5 in-band
and out-of-band, and by msgspec and safetensors where these are installed. Every tensor is compared
by hash. What the documentation shows is measured by the benchmarks of the source repository.
"""


def register(subparsers: Subparsers) -> None:
    """Add the command."""
    parser = add_command(
        subparsers,
        "bench",
        run=run,
        caption="your message beside pickle, msgspec and safetensors",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        json_file=True,
    )
    parser.add_argument(
        "messages",
        nargs="*",
        metavar="MESSAGE",
        help="message, old pickle, or payload (default: image-small and image)",
    )
    parser.add_argument(
        "--method", action="append", metavar="NAME", help="only this one; may be repeated"
    )
    parser.add_argument(
        "--ranks", type=int, default=4, metavar="N", help="rank processes; 0 for none (default: 4)"
    )
    parser.add_argument(
        "--rounds", type=positive, default=7, metavar="N", help="how often each runs (default: 7)"
    )
    parser.add_argument("--quick", action="store_true", help="three rounds")


def run(arguments: argparse.Namespace, output: Output) -> int:
    """Compare the methods: 0 when every bit arrived."""
    from mmformat._extras import require

    for module in ("torch", "zmq"):
        require(module, extra="bench")
    from mmformat.bench.comparison import compare_methods, subject_of
    from mmformat.bench.methods import METHODS, method_class

    methods = arguments.method or list(METHODS)
    for name in methods:
        method_class(name)
    subjects = [subject_of(each) for each in arguments.messages or ("image-small", "image")]
    with output.progress("bench") as follow:
        found = compare_methods(
            subjects,
            methods=methods,
            ranks=arguments.ranks,
            rounds=3 if arguments.quick else arguments.rounds,
            follow=follow,
        )
    told = [each.to_json() for each in found]
    if arguments.json is True:
        output.json(told)
    else:
        if arguments.json:
            with written_whole(arguments.json) as file:
                file.write(json.dumps(told, indent=1).encode() + b"\n")
            output.note(f"wrote {arguments.json}")
        for each in found:
            _show(each, output)
    for each in found:
        if not each.is_correct:
            output.error(f"{each.subject.title}: a tensor arrived changed")
    return 0 if all(each.is_correct for each in found) else 1


def _show(found: Comparison, output: Output) -> None:
    from mmformat.bench.methods import METHODS

    rows: list[list[object]] = []
    for name, alone in found.alone.items():
        row: list[object] = [
            METHODS[name].title,
            megabytes(alone.wire_nbytes),
            f"{alone.median('encode_ns') / 1e6:.3f}",
            f"{alone.median('decode_ns') / 1e6:.3f}",
        ]
        if name in found.shared:
            shared = found.shared[name].metrics["touched_ns"]
            row += [f"{shared.median / 1e6:.2f}", f"{shared.iqr / 1e6:.2f}", shared.n]
        rows.append(row)
    columns = ["method", "message", "encode or put ms", "decode or get ms"]
    if found.shared:
        columns += [f"to {found.ranks} ranks ms", "IQR", "n"]
    output.table(columns, rows, title=found.subject.title, right=columns[1:])
    if found.shared and len(found.shared) > 1:
        output.text(_verdict(found))
    for name, reason in found.missing.items():
        output.note(f"without {name}: {reason}")


def _verdict(found: Comparison) -> str:
    times = {name: cell.median("touched_ns") / 1e6 for name, cell in found.shared.items()}
    ours = [name for name in times if name.startswith("mmformat")]
    others = [name for name in times if name not in ours]
    if not ours or not others:
        return ""
    mine, rival = min(ours, key=times.__getitem__), min(others, key=times.__getitem__)
    ratio = times[rival] / times[mine]
    faster = f"{mine} is {ratio:.1f}" if ratio >= 1 else f"{rival} is {1 / ratio:.1f}"
    return (
        f"until {found.ranks} ranks have read every page: {mine} {times[mine]:.2f} ms, "
        f"{rival} {times[rival]:.2f} ms; {faster} times as fast"
    )
