"""mmformat encode: images into a message."""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mmformat.cli.options import Subparsers, UsageError, add_command
from mmformat.cli.output import Output, megabytes
from mmformat.cli.recognize import missing, recognize
from mmformat.errors import LimitError, MMFormatError, ModelError

if TYPE_CHECKING:
    from mmformat.media.image import ImageProcessor
    from mmformat.model import Compression, MultimodalDataItem

__all__ = ["register"]

_EPILOG: Final = """\
examples:
  mmformat encode photo.jpg -o x.arrows
  mmformat encode *.png -o x.arrows --processor clip --dtype bfloat16
  mmformat encode photo.jpg -o x.arrows --encoding plain --compression lz4
  curl -s https://example.com/photo.jpg | mmformat encode - -o x.arrows
  mmformat encode photo.jpg -o x.arrows --processor ./model/preprocessor_config.json
"""


def register(subparsers: Subparsers) -> None:
    """Add the command."""
    parser = add_command(
        subparsers,
        "encode",
        run=run,
        caption="materialize images and encode them as one message",
        description="Decode images, process them as a model's image processor does, and write one "
        "message,\nwhich is an ordinary Arrow IPC stream.",
        epilog=_EPILOG,
    )
    parser.add_argument(
        "images", nargs="+", metavar="IMAGE", help="JPEG, PNG, WebP, ...; - reads one from stdin"
    )
    parser.add_argument(
        "-o", "--output", required=True, metavar="FILE", help="where to write; - is stdout"
    )
    parser.add_argument(
        "--processor",
        default="qwen2-vl",
        metavar="NAME",
        help="qwen2-vl (patches), clip (224 x 224), or a preprocessor_config.json "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        default="float32",
        help="element type of the pixels (default: %(default)s)",
    )
    parser.add_argument(
        "--encoding",
        choices=("dictionary", "plain"),
        default="dictionary",
        help="bytes and a table of at most 256 values a channel, exactly the same tensor, or "
        "every value written out (default: %(default)s)",
    )
    parser.add_argument(
        "--compression",
        choices=("none", "lz4", "zstd", "auto"),
        default="none",
        help="for tensors over 10 MiB; zstd is smaller and slower, auto takes LZ4 and leaves alone "
        "what does not shrink (default: %(default)s)",
    )
    parser.add_argument(
        "--link-gbit-s",
        type=float,
        metavar="RATE",
        help="with --compression auto: the link that the message crosses; what gets there sooner "
        "as it is stays so",
    )


def run(arguments: argparse.Namespace, output: Output) -> int:
    """Encode, write, and say what was written."""
    from mmformat.codec import encode
    from mmformat.codec.describe import describe
    from mmformat.model import MultimodalInputs

    if arguments.output == "-" and output.wants_json:
        raise UsageError("expected one kind of data on stdout, got -o - and --json")
    compression = _compression(arguments)
    processor = partial(
        _processor(arguments.processor), encoding=arguments.encoding, dtype=arguments.dtype
    )
    items = []
    with output.progress("encode") as follow:
        for number, image in enumerate(arguments.images):
            follow(image, number / len(arguments.images))
            items.append(_item(image, processor))
    message = encode(MultimodalInputs(items=items), compression)
    if arguments.output == "-":
        output.bytes(message.frames)
        return 0
    message.save(arguments.output)
    described = describe(message)
    if output.wants_json:
        output.json(
            {
                "path": arguments.output,
                "items": len(items),
                "tensor_nbytes": described.tensor_nbytes,
                "message_nbytes": message.nbytes,
            }
        )
    else:
        counted = f"{len(items)} item" + ("" if len(items) == 1 else "s")
        output.note(
            f"{arguments.output}: {counted}, {megabytes(described.tensor_nbytes)} of "
            f"tensors in {megabytes(message.nbytes)}"
        )
    return 0


def _compression(arguments: argparse.Namespace) -> Compression | None:
    from mmformat.model import Compression

    if arguments.compression == "none":
        if arguments.link_gbit_s is not None:
            raise UsageError("expected --compression auto with --link-gbit-s, got none")
        return None
    try:
        return Compression(codec=arguments.compression, link_gbit_s=arguments.link_gbit_s)
    except ModelError as error:
        raise UsageError(f"--link-gbit-s: {error.reason}", hint=error.hint) from error


def _processor(name: str) -> ImageProcessor:
    from mmformat._extras import require

    require("PIL.Image", extra="media")
    from mmformat.media.image import FixedSizeImageProcessor, QwenVLImageProcessor
    from mmformat.media.processors import processor_from_config

    if name == "qwen2-vl":
        return QwenVLImageProcessor()
    if name == "clip":
        return FixedSizeImageProcessor()
    if not Path(name).exists():
        raise UsageError(
            f"expected qwen2-vl, clip or a configuration file, got {name!r}",
            hint="mmformat encode --help",
        )
    return processor_from_config(name)


def _item(image: str, processor: Any) -> MultimodalDataItem:
    from mmformat.media import materialize
    from mmformat.model import Modality, MultimodalDataItem, MultimodalInputs, Source

    source = Source(_stdin(), kind="bytes") if image == "-" else Source(image, kind="path")
    item = MultimodalDataItem(modality=Modality.IMAGE, feature=source)
    if image != "-" and not Path(image).exists():
        raise missing(image)
    known = None if image == "-" else recognize(Path(image))
    if known is not None and "image" not in known.noun:
        raise UsageError(f"{image} is {known.noun}, not an image", hint=known.hint)
    try:
        made = materialize(MultimodalInputs(items=[item]), processor)
    except MMFormatError as error:
        # The path inside the inputs says nothing to somebody who gave files.
        raise type(error)(error.reason, path=image, hint=error.hint, code=error.code) from error
    return made.items[0]


def _stdin() -> bytes:
    from mmformat.model.source import MAX_NBYTES

    data = sys.stdin.buffer.read(MAX_NBYTES + 1)
    if len(data) > MAX_NBYTES:
        raise LimitError(f"an image on stdin may have at most {MAX_NBYTES:,} bytes, got more")
    return data
