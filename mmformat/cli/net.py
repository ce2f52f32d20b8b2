"""mmformat net and serve-dataset: messages for other hosts, and what a link gives."""

from __future__ import annotations

import argparse
import dataclasses
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mmformat.cli.options import Subparsers, add_command, add_common, build, positive, size

if TYPE_CHECKING:
    from mmformat.cli.options import Parser
    from mmformat.cli.output import Output
    from mmformat.net import TLS

__all__ = ["register"]

_EPILOG: Final = """\
examples:
  mmformat net doctor encoder-0:4711 --ca ca.pem --token-file token
                                       latency, bandwidth, and what to send over this link
  mmformat net mirror --arena 2GiB --ranks 4 --socket /run/mmformat/mirror
                                       one mirror for all processes of this host
"""
_SERVE: Final = """\
examples:
  mmformat serve-dataset recordings/                                 this host alone
  mmformat serve-dataset recordings/ --listen 0.0.0.0:4712 \\
      --certificate server.pem --key server.key --token-file token   other hosts, over TLS

open it with mm.open_dataset("mmf+flight+tls://host:4712", ...).
"""


def register(subparsers: Subparsers) -> None:
    """Add the commands."""
    caption = "fetch messages of other hosts, and measure links"
    parser = add_command(subparsers, "net", run=_doctor, caption=caption, epilog=_EPILOG)
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    doctor = _verb(verbs, "doctor", _doctor, "measure a link, and say what to send over it")
    doctor.add_argument("address", metavar="HOST:PORT", help="where a publisher listens")
    _add_proof(doctor)
    mirror = _verb(verbs, "mirror", _mirror, "fetch for all processes of this host")
    mirror.add_argument("--arena", type=size, default=2**30, metavar="SIZE", help="(default 1GiB)")
    mirror.add_argument(
        "--ranks", type=positive, default=1, metavar="N", help="who read (default 1)"
    )
    mirror.add_argument("--socket", type=Path, required=True, metavar="PATH", help="where they ask")
    mirror.add_argument(
        "--memory",
        type=size,
        default=512 * 2**20,
        metavar="SIZE",
        help="memory beside the arena that publishers can make this process take (default 512MiB)",
    )
    _add_proof(mirror)
    serve = add_command(
        subparsers,
        "serve-dataset",
        run=_serve,
        caption="serve a folder of messages to other hosts",
        epilog=_SERVE,
    )
    serve.add_argument("folder", type=Path, metavar="FOLDER")
    serve.add_argument("--listen", default="127.0.0.1:4712", metavar="HOST:PORT")
    _add_proof(serve)


def _verb(verbs: Any, name: str, run: object, caption: str) -> Parser:
    parser = build(verbs.add_parser, name=name, help=caption, description=caption)
    add_common(parser, nested=True)
    parser.set_defaults(run=run)
    return parser


def _add_proof(parser: Parser) -> None:
    group = parser.add_argument_group("who may")
    group.add_argument("--certificate", type=Path, metavar="PEM", help="our own")
    group.add_argument("--key", type=Path, metavar="PEM", help="its private key")
    group.add_argument("--ca", type=Path, metavar="PEM", help="who signs the other side's")
    group.add_argument("--token-file", type=Path, metavar="FILE", help="a file with the token")
    group.add_argument("--insecure", action="store_true", help="do without, on a trusted network")


def _proof(arguments: argparse.Namespace) -> tuple[TLS | None, str | None]:
    from mmformat.net import TLS

    token = None
    if arguments.token_file is not None:
        token = arguments.token_file.read_text("utf-8").strip()
    if arguments.certificate is None and arguments.key is None and arguments.ca is None:
        return None, token
    tls = TLS(certificate=arguments.certificate, private_key=arguments.key, ca=arguments.ca)
    return tls, token


def _doctor(arguments: argparse.Namespace, output: Output) -> int:
    from mmformat.net.doctor import diagnose

    tls, token = _proof(arguments)
    scheme = "grpc" if tls is None else "grpc+tls"
    found = diagnose(f"{scheme}://{arguments.address}", tls=tls, token=token)
    if output.wants_json:
        output.json({**dataclasses.asdict(found), "advice": found.advice})
        return 0
    rows = [
        ("latency", f"{found.latency_s * 1e3:.2f} ms, worst {found.latency_worst_s * 1e3:.2f}"),
        ("bandwidth", f"{found.bandwidth / 1e6:,.0f} MB/s over {found.probe_nbytes / 1e6:,.0f} MB"),
        ("LZ4 here", f"{found.lz4_write / 1e6:,.0f} MB/s in, {found.lz4_read / 1e6:,.0f} out"),
        ("codes to float32 here", f"{found.expand / 1e6:,.0f} MB/s"),
    ]
    output.table(("what", "measured"), rows)
    for line in found.advice:
        output.text(line)
    return 0


def _mirror(arguments: argparse.Namespace, output: Output) -> int:
    import mmformat as mm
    from mmformat.net import Mirror, MirrorServer, bound_memory

    tls, token = _proof(arguments)
    with (
        mm.Arena.create(nbytes=arguments.arena, ranks=arguments.ranks) as arena,
        Mirror(arena, tls=tls, token=token, insecure=arguments.insecure) as mirror,
        MirrorServer(mirror, arguments.socket) as server,
    ):
        bound_memory(arguments.memory)
        _until_told(output, {"arena": arena.name, "socket": str(server.path)})
    return 0


def _serve(arguments: argparse.Namespace, output: Output) -> int:
    from mmformat.dataset.remote import DatasetServer

    tls, token = _proof(arguments)
    with DatasetServer(
        arguments.folder,
        arguments.listen,
        tls=tls,
        token=token,
        insecure=arguments.insecure,
    ) as server:
        _until_told(output, {"url": server.url})
    return 0


def _until_told(output: Output, said: dict[str, str]) -> None:
    """Print what was started, and wait for SIGINT or SIGTERM."""
    told = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: told.set())
    if output.wants_json:
        output.json(said)
    else:
        for name, value in said.items():
            output.text(f"{name}: {value}")
    sys.stdout.flush()
    told.wait()
