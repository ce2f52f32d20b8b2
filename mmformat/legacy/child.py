"""The sandbox's process: reads pickles that its parent opened, and can open nothing itself."""

from __future__ import annotations

import functools
import gc
import json
import mmap
import os
import resource
import socket
import sys
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from mmformat.errors import MMFormatError
from mmformat.legacy import exchange
from mmformat.legacy.channel import receive, send
from mmformat.legacy.landing import Lander, layout
from mmformat.legacy.limits import PickleLimits
from mmformat.legacy.nodes import Tensor
from mmformat.legacy.reading import Reading, read
from mmformat.legacy.seccomp import confine

__all__ = ["NO_MEMORY", "SCRATCH_NBYTES", "run"]

_IDLE_S: Final = 300.0
NO_MEMORY: Final = 12
SCRATCH_NBYTES: Final = 2**21
"""Tensors up to this size in all go through memory that parent and child keep mapped.

One exchange less for each file, and no page that has to be made first.
"""
# One value of each kind, so that every codec and every branch is loaded before the door closes.
_WARM: Final = (
    b"(dp0\nVa\np1\nI1\nsS'b'\np2\nL1L\nsVc\nF1.5\ns.",
    b"\x80\x02}q\x00(X\x01\x00\x00\x00aq\x01c_codecs\nencode\nq\x02X\x02\x00\x00\x00\xc3\xbfq\x03"
    b"X\x06\x00\x00\x00latin1q\x04\x86Rq\x05X\x01\x00\x00\x00bq\x06cos\nsystem\nu.",
    b"\x80\x04\x8c\x08\xed\xa0\x80xyzw\x94.",
    b"\x80\x04\x95",
)


def run(descriptor: int, scratch_descriptor: int) -> None:
    """Serve conversions on a socket until the other end closes it."""
    channel = socket.socket(fileno=descriptor)
    scratch = np.frombuffer(mmap.mmap(scratch_descriptor, SCRATCH_NBYTES), np.uint8)
    os.close(scratch_descriptor)
    channel.settimeout(_IDLE_S)
    for data in _WARM:
        try:
            read(memoryview(data), PickleLimits(time_s=5))
        except MMFormatError as error:
            _error(error)
    exchange.dump([1.5, "a", b"b"], [])
    gc.collect()
    gc.freeze()  # what is loaded now stays; no collection has to look at it
    _rlimits()
    state = {"seccomp": confine()}
    send(channel, json.dumps(state).encode())
    while True:
        try:
            request, descriptors = receive(channel)
        except (EOFError, OSError):
            return
        try:
            _serve(channel, json.loads(request), descriptors, scratch)
        except (EOFError, OSError):
            return
        except MemoryError:
            # Not as a traceback: printing one opens the source, and that ends the process.
            os._exit(NO_MEMORY)
        finally:
            for number in descriptors:
                os.close(number)


def _rlimits() -> None:
    for limit, value in (
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_NOFILE, 16),
    ):
        resource.setrlimit(limit, (value, value))


@functools.lru_cache(maxsize=1)
def _limits(text: str) -> PickleLimits:
    return PickleLimits(**json.loads(text))


def _serve(
    channel: socket.socket,
    request: dict[str, Any],
    descriptors: list[int],
    scratch: npt.NDArray[np.uint8],
) -> None:
    limits = _limits(request["limits"])
    maps: list[mmap.mmap] = []
    try:
        views = []
        for number in descriptors:
            size = os.fstat(number).st_size
            if not size:
                views.append(memoryview(b""))
                continue
            maps.append(mmap.mmap(number, size, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ))
            views.append(memoryview(maps[-1]))
        buffers = [views[1][start:stop] for start, stop in request["buffers"]]
        reading = read(views[0], limits, buffers)
        tensors = reading.found.tensors
        offsets, total = layout(tensors)
        tree = exchange.dump(reading.roots, tensors)
        answer = _answer(reading, offsets, total)
        answer["scratch"] = total <= len(scratch)
        if answer["scratch"]:
            _fill(scratch, tensors, offsets, Lander(tensors))
        head = json.dumps(answer).encode()
        message = b"".join((len(head).to_bytes(4, "little"), head, tree))
        send(channel, message)
        if answer["scratch"]:
            return
    except MMFormatError as error:
        _refuse(channel, {"error": _error(error)})
        return
    except (MemoryError, RecursionError) as error:
        _refuse(channel, {"memory": type(error).__name__})
        return
    _land(channel, tensors, offsets, total, maps)


def _refuse(channel: socket.socket, answer: dict[str, Any]) -> None:
    head = json.dumps(answer).encode()
    send(channel, len(head).to_bytes(4, "little") + head)


def _fill(
    target: npt.NDArray[np.uint8],
    tensors: list[Tensor],
    offsets: list[int],
    lander: Lander,
) -> None:
    for tensor, offset in zip(tensors, offsets, strict=True):
        lander.land(tensor, target[offset : offset + tensor.nbytes])


def _answer(reading: Reading, offsets: list[int], total: int) -> dict[str, Any]:
    return {
        "container": reading.container,
        "protocol": reading.protocol,
        "names": reading.names,
        "offsets": offsets,
        "nbytes": total,
    }


def _error(error: MMFormatError) -> dict[str, Any]:
    return {
        "class": type(error).__name__,
        "message": error.reason,
        "path": error.path,
        "hint": error.hint,
        "code": error.code,
    }


def _land(
    channel: socket.socket,
    tensors: list[Tensor],
    offsets: list[int],
    total: int,
    maps: list[mmap.mmap],
) -> None:
    _, (number,) = receive(channel)
    try:
        block = mmap.mmap(number, total)
        target = np.frombuffer(block, np.uint8)
        try:
            file = maps[0] if maps else None
            _fill(target, tensors, offsets, Lander(tensors, file, block=block))
            answer: dict[str, Any] = {"done": True}
        except MMFormatError as error:
            answer = {"error": _error(error)}
        del target
        # The parent seals the block against writing, which fails while a mapping is left.
        block.close()
    finally:
        os.close(number)
    send(channel, json.dumps(answer).encode())


if __name__ == "__main__":
    run(int(sys.argv[1]), int(sys.argv[2]))
