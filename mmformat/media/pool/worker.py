"""A worker process: takes requests from its socket until the other side closes it."""

from __future__ import annotations

import os
import signal
import socket
import sys
from typing import Any

from mmformat.errors import MaterializeError, MMFormatError
from mmformat.media.materialize import materialize_item
from mmformat.media.pool.channel import Channel, ChannelClosedError
from mmformat.media.pool.parcel import encode_numbered, unpack
from mmformat.media.pool.recipe import make

__all__ = ["error_head", "serve"]


def serve(channel: Channel) -> None:
    """Answer requests until the channel closes; the first frame says how to process.

    Notes
    -----
    A request that fails is answered with its error. Nothing is kept between requests.
    """
    try:
        recipes, _ = channel.receive()
        try:
            processor, encode, decode = (
                make(recipes[name]) for name in ("processor", "encode", "decode")
            )
        except Exception as error:
            channel.send(error_head(error))
            return
        channel.send({"ready": os.getpid()})
        while True:
            head, body = channel.receive()
            try:
                items = [
                    materialize_item(item, processor, fetcher=None, path=f"$.items[{number}]")
                    for number, item in unpack(head, body, decode=decode)
                ]
                message = encode_numbered(items, head["numbers"], encode=encode)
            except Exception as error:
                channel.send(error_head(error))
                continue
            channel.send({"done": True}, message.frames)
            del head, body, items, message
    except ChannelClosedError:
        return


def error_head(error: Exception) -> dict[str, Any]:
    """Return an error as JSON; one that is not ours becomes a MaterializeError."""
    if not isinstance(error, MMFormatError):
        error = MaterializeError(f"expected a result, got {type(error).__name__}: {error}")
    return {
        "error": type(error).__name__,
        "reason": error.reason,
        "path": error.path,
        "hint": error.hint,
        "code": error.code,
    }


def main() -> None:
    """Serve the socket whose descriptor is the first argument."""
    # Ctrl-C is for the pool, which closes the socket; what a processor prints is no data.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.dup2(2, 1)
    serve(Channel(socket.socket(fileno=int(sys.argv[1]))))


if __name__ == "__main__":
    main()
