"""safetensors in memory: tensors by name, everything else as JSON in its metadata."""

from __future__ import annotations

import json
from typing import Any

from mmformat.bench.arms.arm import Arm, Frames
from mmformat.bench.arms.named_tensors import inputs_of_named, named_tensors
from mmformat.model import MultimodalInputs

__all__ = ["SafetensorsArm"]


class SafetensorsArm(Arm):
    """Save to bytes and load from bytes."""

    name = "safetensors"
    title = "safetensors"
    note = "save copies; load copies too (its zero-copy path wants a file)"
    module = "safetensors"

    def encode(self, inputs: MultimodalInputs) -> Frames:
        """Return one file's bytes."""
        from safetensors.torch import save

        tensors, rest = named_tensors(inputs)
        return [save(tensors, {"rest": rest})]

    def decode(self, frames: Frames) -> Any:
        """Load all tensors."""
        from safetensors.torch import load

        data = bytes(frames[0]) if not isinstance(frames[0], bytes) else frames[0]
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        return inputs_of_named(load(data), header["__metadata__"]["rest"])
