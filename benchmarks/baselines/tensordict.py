"""tensordict: one consolidated file in shared memory, mapped copy-on-write by every reader."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Any, Final

from mmformat.bench.methods import Frames, Method, inputs_of_named, named_tensors
from mmformat.model import MultimodalInputs

__all__ = ["TensorDictMethod"]

_SHM: Final = Path("/dev/shm")


class TensorDictMethod(Method):
    """Consolidate into a file of /dev/shm; its path and the rest's JSON travel."""

    name = "tensordict"
    title = "tensordict, consolidated in /dev/shm"
    note = "a file a request, unlinked outside the clock"
    shares_memory = True
    module = "tensordict"

    def __init__(self) -> None:
        self._paths: list[Path] = []

    def encode(self, inputs: MultimodalInputs) -> Frames:
        """Write the file and return its path and what is no tensor."""
        from tensordict import TensorDict

        tensors, rest = named_tensors(inputs)
        path = _SHM / f"bench-mmformat-{os.getpid()}-{secrets.token_hex(4)}"
        self._paths.append(path)
        TensorDict(tensors, batch_size=[]).consolidate(filename=path)
        return [str(path).encode(), rest.encode()]

    def decode(self, frames: Frames) -> Any:
        """Map the file."""
        from tensordict import TensorDict

        mapping: Any = TensorDict.from_consolidated
        mapped = mapping(bytes(frames[0]).decode())
        return inputs_of_named(dict(mapped.items()), bytes(frames[1]))

    def reclaim(self) -> None:
        """Unlink the files."""
        for path in self._paths:
            path.unlink(missing_ok=True)
        self._paths.clear()

    def close(self) -> None:
        """Unlink what a failed round left."""
        self.reclaim()
