"""Ray: inputs travel as one message in the object store, and every process of a node maps it."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from mmformat._extras import require
from mmformat.codec import decode, encode
from mmformat.errors import TransportError
from mmformat.model.item import MultimodalInputs
from mmformat.model.limits import Limits
from mmformat.model.message import EncodedMessage

__all__ = ["deserialize", "register", "serialize"]

MAPPED_FROM_NBYTES: Final = 2**20
"""A smaller message is copied: that costs less than the mapping."""
_PAGE: Final = mmap.PAGESIZE
_STORES: Final[dict[tuple[int, int], int]] = {}
"""Descriptors of the stores' files; Ray keeps a store for as long as its node lives."""
_Bytes = np.ndarray[Any, np.dtype[np.uint8]]


def register(*, limits: Limits | None = None, expand: bool = True) -> None:
    """Let Ray carry :class:`mmformat.MultimodalInputs` as messages, in this process.

    Call it in the driver after ``ray.init``, and in each actor or task that receives inputs before
    it does; ``ray.init(runtime_env={"worker_process_setup_hook": register})`` does the latter.

    Parameters
    ----------
    limits : Limits, optional
        What a message may ask for.
    expand : bool, default True
        Expand dictionary tensors when they arrive; they travel as codes either way.

    Raises
    ------
    MissingExtraError
        When Ray is not installed.

    Notes
    -----
    **Copies**: one, into the object store; none in the processes of the node, which map it. A
    process that writes to its tensors changes its own pages alone. Where the store's memory
    cannot be mapped privately, each process copies what it gets.
    """
    ray = require("ray", extra="ray")
    ray.util.register_serializer(
        MultimodalInputs,
        serializer=serialize,
        deserializer=_Deserializer(Limits.of(limits), expand),
    )


class _Deserializer(NamedTuple):
    limits: Limits
    expand: bool

    def __call__(self, frames: Sequence[_Bytes]) -> MultimodalInputs:
        return deserialize(frames, limits=self.limits, expand=self.expand)


def serialize(inputs: MultimodalInputs) -> list[_Bytes]:
    """Return the frames of the inputs' message, as arrays that Ray stores out of band.

    Raises
    ------
    EncodeError
        When a value cannot travel.

    Notes
    -----
    **Copies**: none.
    """
    return [np.frombuffer(memoryview(frame), np.uint8) for frame in encode(inputs)]


def deserialize(
    frames: Sequence[_Bytes], *, limits: Limits | None = None, expand: bool = True
) -> MultimodalInputs:
    """Return the inputs of a stored message, over private pages of the store.

    Raises
    ------
    DecodeError, LimitError
        When the frames are no message within the limits.
    """
    if not isinstance(frames, (list, tuple)) or not all(
        type(each) is np.ndarray and each.dtype == np.uint8 for each in frames
    ):
        raise TransportError("a message in the object store is a list of uint8 arrays", code="ray")
    mine = _private(frames)
    if mine is None:
        mine = [memoryview(bytearray(each.data)) for each in frames]
    return decode(EncodedMessage(mine), limits=limits, expand=expand)


class _Pages(mmap.mmap):
    """Own private pages of the store, and keep Ray's own view, so that the object stays."""

    kept: object = None


def _private(frames: Sequence[_Bytes]) -> list[memoryview] | None:
    """Return the frames over a private mapping of the store; None when there can be none."""
    nbytes = sum(each.nbytes for each in frames)
    if nbytes < MAPPED_FROM_NBYTES or any(each.flags.writeable for each in frames):
        return None
    first = min(each.ctypes.data for each in frames if each.nbytes)
    last = max(each.ctypes.data + each.nbytes for each in frames)
    found = _region(first, last)
    if found is None:
        return None
    start, offset, device, inode = found
    skipped = (first - start) // _PAGE * _PAGE
    begin = start + skipped
    descriptor = _store(device, inode)
    if descriptor is None:
        return None
    try:
        pages = _Pages(
            descriptor,
            last - begin,
            flags=mmap.MAP_PRIVATE,
            prot=mmap.PROT_READ | mmap.PROT_WRITE,
            offset=offset + skipped,
        )
    except (OSError, ValueError):
        return None
    pages.kept = tuple(frames)
    view = memoryview(pages)
    return [view[(at := each.ctypes.data - begin) : at + each.nbytes] for each in frames]


def _store(device: int, inode: int) -> int | None:
    """Return a descriptor of the store's unlinked file, opened once in this process."""
    known = _STORES.get((device, inode))
    if known is not None:
        return known
    # Through a process that holds it open: a worker's parent is Ray's own; a driver looks for it.
    for process in (os.getppid(), *_raylets()):
        with suppress(OSError):
            for each in Path(f"/proc/{process}/fd").iterdir():
                with suppress(OSError):
                    status = each.stat()
                    if (status.st_dev, status.st_ino) == (device, inode):
                        made = os.open(each, os.O_RDONLY | os.O_CLOEXEC)
                        return _STORES.setdefault((device, inode), made)
    return None


def _region(first: int, last: int) -> tuple[int, int, int, int] | None:
    """Return where the mapping of these addresses starts, its file offset, device and inode."""
    with Path("/proc/self/maps").open() as lines:
        for line in lines:
            span, _, offset, device, inode, *_ = line.split()
            start, end = (int(each, 16) for each in span.split("-"))
            if start <= first and last <= end:
                major, minor = (int(each, 16) for each in device.split(":"))
                if inode == "0":
                    return None
                return start, int(offset, 16), os.makedev(major, minor), int(inode)
    return None


def _raylets() -> Iterator[int]:
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            with suppress(OSError):
                if (folder / "comm").read_text().strip() == "raylet":
                    yield int(folder.name)
