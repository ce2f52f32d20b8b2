"""torch.save and torch.load: the zip archive that every torch user knows."""

from __future__ import annotations

import io
from typing import Any

import torch

from mmformat.bench.methods import Frames, Method, inputs_of, plain_of
from mmformat.model import MultimodalInputs

__all__ = ["TorchSaveMethod"]


class TorchSaveMethod(Method):
    """Save to memory and load with ``weights_only``, as advised."""

    name = "torch-save"
    title = "torch.save"
    note = "into BytesIO; loaded with weights_only=True"

    def encode(self, inputs: MultimodalInputs) -> Frames:
        """Return one archive."""
        stream = io.BytesIO()
        torch.save(plain_of(inputs), stream)
        return [stream.getbuffer()]

    def decode(self, frames: Frames) -> Any:
        """Load the archive."""
        return inputs_of(torch.load(io.BytesIO(frames[0]), weights_only=True))
