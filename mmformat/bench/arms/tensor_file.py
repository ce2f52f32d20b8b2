"""safetensors in memory: tensors by name, everything else as JSON in its metadata."""

from __future__ import annotations

import json
from typing import Any

from mmformat.bench.arms.arm import Arm, Frames, inputs_of, plain_of
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

        plain = plain_of(inputs)
        tensors = {}
        for number, item in enumerate(plain["items"]):
            tensors[f"{number}.feature"] = item.pop("feature")
            for name, value in item.pop("model_specific_data").items():
                tensors[f"{number}.data.{name}"] = value
        return [save(tensors, {"rest": json.dumps(plain)})]

    def decode(self, frames: Frames) -> Any:
        """Load all tensors."""
        from safetensors.torch import load

        data = bytes(frames[0]) if not isinstance(frames[0], bytes) else frames[0]
        tensors = load(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        plain = json.loads(header["__metadata__"]["rest"])
        for number, item in enumerate(plain["items"]):
            item["feature"] = tensors.pop(f"{number}.feature")
            item["model_specific_data"] = {}
        for key, value in tensors.items():
            place, _, name = key.split(".", 2)
            plain["items"][int(place)]["model_specific_data"][name] = value
        return inputs_of(plain)
