"""Read every pickle of a source into one bounded tree of inert values."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from mmformat.errors import DecodeError, LimitError, TruncatedError
from mmformat.legacy import torch_stream, torch_zip
from mmformat.legacy.bounds import Found, measure
from mmformat.legacy.limits import PickleLimits
from mmformat.legacy.machine import Machine

__all__ = ["Reading", "read"]


@dataclass(slots=True)
class Reading:
    """What a source holds: a root for each pickle, and the tensors among them."""

    container: str = "pickle"
    protocol: int = 0
    roots: list[Any] = field(default_factory=list)
    found: Found = field(default_factory=Found)
    names: list[str] = field(default_factory=list)


def read(source: memoryview, limits: PickleLimits, buffers: Sequence[memoryview] = ()) -> Reading:
    """Interpret all pickles of ``source`` and check the bounds of what they describe.

    Raises
    ------
    UnsafePickleError, DecodeError, TruncatedError, LimitError
        As :func:`mmformat.convert`.

    Notes
    -----
    **Copies**: no tensor byte; the result refers to ``source`` and ``buffers``.
    """
    nbytes = len(source) + sum(len(buffer) for buffer in buffers)
    limits.check("source_nbytes", nbytes, "$")
    if not len(source):
        raise TruncatedError("expected a pickle, got no bytes", path="$")
    deadline_s = time.monotonic() + limits.time_s
    machine = Machine(source, limits=limits, deadline_s=deadline_s, buffers=buffers)
    reading = Reading()
    failed = None
    try:
        if torch_zip.is_zip(source):
            reading.container = "torch-zip"
            reading.roots.append(torch_zip.load(machine, source))
        elif torch_stream.is_stream(source):
            reading.container = "torch-stream"
            reading.roots.append(torch_stream.load(machine, source, "$"))
        else:
            _pickles(machine, reading, limits)
        reading.found = measure(reading.roots, limits, nbytes)
    except (MemoryError, RecursionError) as error:
        # Raised below: an error within this one would hold the frames that hold the memory.
        failed = type(error).__name__
    if failed is not None:
        reading.roots.clear()
        raise LimitError(f"expected to fit into memory, got {failed}", path="$")
    reading.protocol = machine.protocol
    reading.names = sorted(machine.seen)
    return reading


def _pickles(machine: Machine, reading: Reading, limits: PickleLimits) -> None:
    position = 0
    while position < len(machine.source):
        limits.check("pickles", len(reading.roots) + 1, machine.path(position))
        if reading.roots:
            machine.where = f"$[pickle {len(reading.roots)}]"
        root, position = machine.load(position)
        reading.roots.append(root)
    if machine.buffers:
        raise DecodeError(
            f"expected every out-of-band buffer to be used, got {len(machine.buffers)} left",
            path="$",
        )
