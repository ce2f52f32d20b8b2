"""Controls: what one copy of the same bytes costs, and what looking at every page costs."""

from __future__ import annotations

import json
import mmap
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from mmformat.bench.methods import Frames, Method
from mmformat.bench.payloads import tensors_of
from mmformat.model import MultimodalInputs

__all__ = ["MemcpyMethod", "TouchMethod"]

_SHM: Final = Path("/dev/shm")
_ALIGNMENT: Final = 64
_POPULATE_WRITE: Final = 23
_POPULATE_READ: Final = 22


class MemcpyMethod(Method):
    """Copy each tensor once into memory that every reader mapped and touched before.

    There are no checks, no slots, no releases: nothing that shares memory can be faster.
    """

    name = "memcpy"
    title = "control: one memcpy"
    note = "numpy.copyto into touched shared memory, mapped by the readers beforehand; no checks"
    shares_memory = True
    copies = True

    def __init__(self) -> None:
        self._path: Path | None = None
        self._memory: mmap.mmap | None = None

    def open(self, *, nbytes: int, ranks: int) -> None:
        """Create and touch the memory."""
        self._path = _SHM / f"bench-mmformat-{os.getpid()}-{secrets.token_hex(4)}"
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            size = nbytes + 2**20
            os.posix_fallocate(descriptor, 0, size)
            self._memory = mmap.mmap(descriptor, size)
        finally:
            os.close(descriptor)
        self._memory.madvise(_POPULATE_WRITE)

    def encode(self, inputs: MultimodalInputs) -> Frames:
        """Copy the tensors and return where they lie."""
        if self._memory is None or self._path is None:
            raise RuntimeError("expected open() first")
        places: list[Any] = []
        position = 0
        target = np.frombuffer(self._memory, np.uint8)
        for tensor in tensors_of(inputs):
            if self.copies:
                raw = tensor.contiguous().view(torch.uint8).numpy().reshape(-1)
                np.copyto(target[position : position + raw.size], raw)
            dtype = str(tensor.dtype).removeprefix("torch.")
            places.append([position, dtype, list(tensor.shape)])
            position += tensor.nbytes + -tensor.nbytes % _ALIGNMENT
        return [json.dumps([str(self._path), places]).encode()]

    def decode(self, frames: Frames) -> Any:
        """Return views of the memory."""
        path, places = json.loads(bytes(frames[0]))
        if self._memory is None:
            descriptor = os.open(path, os.O_RDWR)
            try:
                self._memory = mmap.mmap(descriptor, 0)
            finally:
                os.close(descriptor)
            self._memory.madvise(_POPULATE_READ)
        return list(_views(self._memory, places))

    def close(self) -> None:
        """Remove the memory."""
        self._memory = None
        if self._path is not None:
            self._path.unlink(missing_ok=True)
            self._path = None


class TouchMethod(MemcpyMethod):
    """Copy nothing: the readers look at every page of what was there before."""

    name = "touch"
    title = "control: touch every page"
    note = "nothing is carried; what reading one byte of each page costs in any arm"
    copies = False
    carries = False


def _views(memory: mmap.mmap, places: list[Any]) -> Iterator[torch.Tensor]:
    for position, name, shape in places:
        dtype = getattr(torch, name)
        count = int(np.prod(shape, dtype=np.int64))
        yield torch.frombuffer(memory, dtype=dtype, count=count, offset=position).view(shape)
