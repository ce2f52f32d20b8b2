"""SGLang's own ShmPointerMMData, where SGLang is installed."""

from __future__ import annotations

import pickle
from typing import Any

from benchmarks.baselines.segment_per_tensor import unlink_all
from benchmarks.baselines.stub_import import stand_in
from mmformat.bench.methods import Frames, Method, inputs_of, plain_of
from mmformat.model import MultimodalInputs

__all__ = ["SglangMethod"]


class SglangMethod(Method):
    """Wrap each feature with the engine's class, and pickle."""

    name = "sglang"
    title = "SGLang's ShmPointerMMData"
    note = "the installed engine's own class; unlinked by the producer, outside the clock"
    module = "sglang"
    shares_memory = True

    def __init__(self) -> None:
        stand_in("torchvision")
        from sglang.srt.managers.mm_utils import ShmPointerMMData

        self._wrap = ShmPointerMMData
        self._names: list[str] = []
        self._pointers: list[Any] = []

    def encode(self, inputs: MultimodalInputs) -> Frames:
        """Return a pickle of stubs."""
        plain = plain_of(inputs)
        for item in plain["items"]:
            item["feature"] = self._wrap(item["feature"])
            self._names.append(item["feature"].shm_name)
        return [pickle.dumps(plain, protocol=5)]

    def decode(self, frames: Frames) -> Any:
        """Load the stubs and materialize them."""
        plain = pickle.loads(frames[0])
        for item in plain["items"]:
            pointer = item["feature"]
            # The engine has a barrier here, so that nobody unlinks what another has yet to open.
            pointer.close_and_unlink = _leave
            item["feature"] = pointer.materialize()
            self._pointers.append(pointer)
        return inputs_of(plain)

    def release(self) -> None:
        """Close the handles."""
        self._pointers.clear()

    def reclaim(self) -> None:
        """Unlink the segments."""
        unlink_all(self._names)

    def close(self) -> None:
        """Give everything back."""
        self.release()
        self.reclaim()


def _leave() -> None:
    return None
