"""SGLang's own ShmPointerMMData, where SGLang is installed."""

from __future__ import annotations

import pickle
from typing import Any

from mmformat.bench.arms.arm import Arm, Frames, inputs_of, plain_of
from mmformat.model import MultimodalInputs

__all__ = ["SglangArm"]


class SglangArm(Arm):
    """Wrap each feature with the engine's class, and pickle."""

    name = "sglang"
    title = "SGLang's ShmPointerMMData"
    note = "the installed engine's own class; its receivers unlink the segments"
    module = "sglang"
    shares_memory = True

    def encode(self, inputs: MultimodalInputs) -> Frames:
        """Return a pickle of stubs."""
        from sglang.srt.managers.mm_utils import ShmPointerMMData

        plain = plain_of(inputs)
        for item in plain["items"]:
            item["feature"] = ShmPointerMMData(item["feature"])
        return [pickle.dumps(plain, protocol=5)]

    def decode(self, frames: Frames) -> Any:
        """Load the stubs and materialize them."""
        plain = pickle.loads(frames[0])
        for item in plain["items"]:
            item["feature"] = item["feature"].materialize()
        return inputs_of(plain)
