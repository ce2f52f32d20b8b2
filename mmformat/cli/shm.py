"""List, remove and size the arenas of this user."""

from __future__ import annotations

import argparse
import dataclasses
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mmformat.cli.options import Subparsers, add_command, add_common, build, positive, size
from mmformat.cli.output import megabytes
from mmformat.shm.doctor import diagnose
from mmformat.shm.layout import MAX_READERS
from mmformat.shm.segment import SHM_DIRECTORY
from mmformat.shm.sweep import SegmentInfo, list_segments, sweep

if TYPE_CHECKING:
    from mmformat.cli.options import Parser
    from mmformat.cli.output import Output

__all__ = ["register"]

_EPILOG: Final = """\
examples:
  mmformat shm list                                        every arena, and who lives
  mmformat shm gc                                          remove those whose processes are dead
  mmformat shm doctor --tp 4 --request-size 25.8MB --requests 32
                                                           is /dev/shm large enough?

exit status: of doctor 0 enough, 1 not enough; else 0
"""


def register(subparsers: Subparsers) -> None:
    """Add the command to the front desk."""
    parser = add_command(
        subparsers,
        "shm",
        run=_list,
        caption="list, remove and size shared memory",
        epilog=_EPILOG,
    )
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    _verb(verbs, "list", _list, "show every arena of this user, and who lives")
    _verb(verbs, "gc", _gc, "remove the arenas that no living process holds")
    doctor = _verb(verbs, "doctor", _doctor, "say what size is needed, and what there is")
    doctor.add_argument(
        "--tp", type=_ranks, default=4, metavar="N", help="ranks that read, 1 to 64 (default 4)"
    )
    doctor.add_argument(
        "--request-size",
        type=size,
        default=25_800_000,
        metavar="SIZE",
        help="bytes of one request's tensors, as 25.8MB or 64MiB (default: 25.8MB, one 1024x1024 "
        "image of Qwen2-VL as float32)",
    )
    doctor.add_argument(
        "--requests",
        type=positive,
        default=32,
        metavar="R",
        help="requests between put and the last release at once (default 32)",
    )


def _verb(verbs: Subparsers, name: str, run: object, caption: str) -> Parser:
    parser = build(verbs.add_parser, name=name, help=caption, description=caption)
    add_common(parser, nested=True)
    parser.add_argument(
        "--directory",
        type=Path,
        default=SHM_DIRECTORY,
        metavar="DIR",
        help=f"where the arenas are (default {SHM_DIRECTORY})",
    )
    parser.set_defaults(run=run)
    return parser


def _ranks(text: str) -> int:
    number = positive(text)
    if number > MAX_READERS:
        raise argparse.ArgumentTypeError(f"expected at most {MAX_READERS}, got {number}")
    return number


def _list(arguments: argparse.Namespace, output: Output) -> int:
    found = list_segments(arguments.directory)
    if output.wants_json:
        arenas = [{**dataclasses.asdict(info), "dead": info.dead} for info in found]
        output.json({"directory": str(arguments.directory), "arenas": arenas})
    elif not found:
        output.note(f"no arena of yours in {arguments.directory}")
    else:
        output.table(
            ("name", "size", "age", "producer", "ranks", "state"),
            [_row(info) for info in found],
            right=("size", "age", "ranks"),
        )
    return 0


def _row(info: SegmentInfo) -> tuple[str, ...]:
    age = "" if info.created_ns is None else f"{time.time() - info.created_ns / 1e9:,.0f} s"
    pid = "" if info.producer_pid is None else f"pid {info.producer_pid}"
    ranks = "" if info.ranks is None else f"{info.ranks_alive} of {info.ranks}"
    state = "alive" if info.producer_alive else "held by ranks" if not info.dead else "dead"
    return info.name, megabytes(info.nbytes), age, pid, ranks, state


def _gc(arguments: argparse.Namespace, output: Output) -> int:
    removed = sweep(arguments.directory)
    if output.wants_json:
        output.json({"directory": str(arguments.directory), "removed": removed})
        return 0
    for name in removed:
        output.text(name)
    output.note(f"removed {len(removed)}")
    return 0


def _doctor(arguments: argparse.Namespace, output: Output) -> int:
    found = diagnose(
        tp=arguments.tp,
        requests=arguments.requests,
        request_nbytes=arguments.request_size,
        directory=arguments.directory,
    )
    if output.wants_json:
        output.json({**dataclasses.asdict(found), "is_enough": found.is_enough})
    else:
        limit = found.memory_limit_nbytes
        rows = [
            ("needed", megabytes(found.segment_nbytes)),
            (f"free in {found.directory}", megabytes(found.free_nbytes)),
            (f"size of {found.directory}", megabytes(found.directory_nbytes)),
            ("held by dead arenas", megabytes(found.dead_nbytes)),
            ("memory limit", "none" if limit is None else megabytes(limit)),
        ]
        output.table(("what", "bytes"), rows, right=("bytes",))
        for line in _settings(found.arena_nbytes, found.segment_nbytes, arguments.tp):
            output.text(line)
        for line in found.advice:
            output.note(f"hint: {line}")
    return 0 if found.is_enough else 1


def _settings(arena_nbytes: int, segment_nbytes: int, ranks: int) -> list[str]:
    """Return the values to set: in Python, for Docker and for Kubernetes."""
    gibibytes = -(-segment_nbytes // 2**30)
    return [
        f"mm.Arena.create(nbytes={arena_nbytes}, ranks={ranks})",
        f"docker run --shm-size={gibibytes}g ...",
        f"emptyDir: {{medium: Memory, sizeLimit: {gibibytes}Gi}}",
    ]
