"""mmformat inspect: what a message holds, without reading a tensor, or as a page to look at."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mmformat._files import written_whole
from mmformat.cli.files import add_paths, each_message
from mmformat.cli.options import Subparsers, UsageError, add_command
from mmformat.cli.output import Output, megabytes

if TYPE_CHECKING:
    from mmformat.codec.describe import ItemDescription, MessageDescription, TensorDescription

__all__ = ["register"]

_EPILOG: Final = """\
examples:
  mmformat inspect x.arrows
  mmformat inspect recordings/             every *.arrows below the folder
  mmformat inspect x.arrows --json | jq '.files[].tensor_nbytes'
  mmformat inspect x.arrows --html x.html  one page with pictures, sound and histograms
"""

_COLUMNS: Final = (
    "item",
    "modality",
    "tensor",
    "dtype",
    "shape",
    "encoding",
    "bytes",
    "stored",
    "at",
)
_RIGHT: Final = ("bytes", "stored", "at")


def register(subparsers: Subparsers) -> None:
    """Add the command."""
    parser = add_command(
        subparsers,
        "inspect",
        run=run,
        caption="show the items and tensors of messages; reads no tensor bytes",
        description="Show the items and tensors of messages. The tensors themselves are not read, "
        "so a message\nof any size is inspected at once; `mmformat verify` reads them. With --html "
        "some of their values\nare, for pictures and histograms: the page stands alone, loads "
        "nothing and runs nothing.",
        epilog=_EPILOG,
    )
    add_paths(parser)
    parser.add_argument(
        "--html", metavar="FILE", help="draw one message as a page, or - for stdout"
    )


def run(arguments: argparse.Namespace, output: Output) -> int:
    """Describe every message; 3 when one could not be."""
    from mmformat.codec.describe import describe

    if arguments.html is not None:
        return _draw(arguments, output)
    found, complete = each_message(arguments, output, describe)
    if output.wants_json:
        output.json({"files": [_as_json(path, each) for path, each in found]})
    else:
        for path, described in found:
            _show(path, described, output)
    return 0 if complete else 3


def _draw(arguments: argparse.Namespace, output: Output) -> int:
    from mmformat.page import draw

    if len(arguments.paths) != 1 or Path(arguments.paths[0]).is_dir():
        raise UsageError("expected one message for one page, got several or a folder")
    path, target = Path(arguments.paths[0]), arguments.html
    page = draw(path, title=path.name)
    if target == "-":
        output.bytes([page.encode()])
        return 0
    content = page.encode()
    with written_whole(target) as file:
        file.write(content)
    nbytes = len(content)
    if output.wants_json:
        output.json({"path": str(path), "html": target, "nbytes": nbytes})
    else:
        output.note(f"wrote {target}, {megabytes(nbytes)}")
    return 0


def _as_json(path: Path, described: MessageDescription) -> dict[str, Any]:
    from dataclasses import asdict

    return {"path": str(path), "tensor_nbytes": described.tensor_nbytes, **asdict(described)}


def _show(path: Path, described: MessageDescription, output: Output) -> None:
    title = (
        f"{path}: version {described.version}, {_count(len(described.items), 'item')}, "
        f"{_count(len(described.tensors), 'tensor')}, {megabytes(described.tensor_nbytes)} "
        f"of tensors in {megabytes(described.nbytes)}"
    )
    rows: list[list[object]] = []
    request = [] if described.request is None else [described.request]
    for item in [*described.items, *request]:
        label = "request" if item.index < 0 else str(item.index)
        modality = "" if item.index < 0 else item.modality
        for tensor in item.tensors:
            rows.append([label, modality, *_cells(tensor)])
            label = modality = ""
        if not item.tensors:
            rows.append([label, modality, *[""] * (len(_COLUMNS) - 2)])
    output.table(_COLUMNS, rows, title=title, right=_RIGHT)
    known = [[item.index, *_known(item)] for item in described.items if any(_known(item))]
    if known:
        output.table(("item", "offsets", "hash", "pad value", "identity"), known)
    if described.choices:
        output.table(
            ("item", "tensor", "compression", "because"),
            [
                ["request" if each.item < 0 else each.item, each.name, each.codec, each.reason]
                for each in described.choices
            ],
            title="chosen by its writer",
        )


def _cells(tensor: TensorDescription) -> list[object]:
    encoding = tensor.encoding if tensor.codec is None else f"{tensor.encoding}, {tensor.codec}"
    starts = [chunk.at for chunk in tensor.chunks if chunk.at is not None]
    return [
        tensor.name,
        tensor.dtype,
        " x ".join(map(str, tensor.shape)) or "scalar",
        encoding,
        megabytes(tensor.nbytes),
        megabytes(tensor.stored_nbytes),
        f"{starts[0]:,}" if starts else "inline",
    ]


def _known(item: ItemDescription) -> list[str]:
    offsets = ", ".join(f"{start}-{end}" for start, end in item.offsets or ())
    pad_value = "" if item.pad_value is None else str(item.pad_value)
    return [offsets, item.hash or "", pad_value, item.identity or ""]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
