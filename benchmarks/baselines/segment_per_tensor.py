"""A POSIX segment for each tensor, the way SGLang's ShmPointerMMData does it."""

from __future__ import annotations

import mmap
import os
import pickle
import secrets
from multiprocessing import shared_memory
from pathlib import Path
from typing import Any, Final

import torch

from mmformat.bench.methods import Frames, Method, inputs_of, plain_of
from mmformat.model import MultimodalInputs

__all__ = ["SegmentPerTensorMethod", "unlink_all"]

_SHM: Final = Path("/dev/shm")


class _Pointer:
    """Stand for a tensor in a segment of its own; about 200 bytes when pickled."""

    def __init__(self, name: str, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
        self.name = name
        self.dtype = dtype
        self.shape = shape

    @classmethod
    def of(cls, tensor: torch.Tensor) -> _Pointer:
        """Create a segment and copy the tensor into it."""
        # A name that no sweep of arenas takes for one of theirs.
        segment = shared_memory.SharedMemory(
            name=f"bench-mmformat-{os.getpid()}-{secrets.token_hex(4)}",
            create=True,
            size=tensor.nbytes,
        )
        os.posix_fallocate(segment._fd, 0, tensor.nbytes)  # type: ignore[attr-defined]
        target = torch.frombuffer(segment.buf, dtype=torch.uint8)
        target.copy_(tensor.contiguous().view(torch.uint8).reshape(-1))
        del target
        segment.close()
        return cls(segment.name, tensor.dtype, tuple(tensor.shape))

    def tensor(self) -> torch.Tensor:
        """Map the segment copy-on-write."""
        descriptor = os.open(_SHM / self.name, os.O_RDONLY)
        try:
            mapping = mmap.mmap(descriptor, 0, access=mmap.ACCESS_COPY)
        finally:
            os.close(descriptor)
        count = self.dtype.itemsize
        for extent in self.shape:
            count *= extent
        raw = torch.frombuffer(mapping, dtype=torch.uint8, count=count)
        return raw.view(self.dtype).view(self.shape)


def unlink_all(names: list[str]) -> None:
    """Remove segments by their names, and forget the names."""
    for name in names:
        segment = shared_memory.SharedMemory(name=name)
        segment.close()
        segment.unlink()
    names.clear()


class SegmentPerTensorMethod(Method):
    """Create, fill and announce a segment for each feature; everything else is pickled."""

    name = "segment-per-tensor"
    title = "segment per tensor (as SGLang)"
    note = "create, fallocate, copy; mapped copy-on-write; unlinked outside the clock"
    shares_memory = True

    def __init__(self) -> None:
        self._names: list[str] = []

    def encode(self, inputs: MultimodalInputs) -> Frames:
        """Return a pickle of stubs."""
        plain = plain_of(inputs)
        for item in plain["items"]:
            item["feature"] = _Pointer.of(item["feature"])
            self._names.append(item["feature"].name)
        return [pickle.dumps(plain, protocol=5)]

    def decode(self, frames: Frames) -> Any:
        """Load the stubs and map every segment."""
        plain = pickle.loads(frames[0])
        for item in plain["items"]:
            item["feature"] = item["feature"].tensor()
        return inputs_of(plain)

    def reclaim(self) -> None:
        """Unlink the segments."""
        unlink_all(self._names)

    def close(self) -> None:
        """Unlink what a failed round left."""
        self.reclaim()
