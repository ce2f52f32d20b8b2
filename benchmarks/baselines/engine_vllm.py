"""vLLM's own MsgpackEncoder and MsgpackDecoder, where vLLM is installed."""

from __future__ import annotations

from typing import Any

from mmformat.bench.methods import Frames, Method, inputs_of, plain_of
from mmformat.model import MultimodalInputs

__all__ = ["VllmMethod"]


class VllmMethod(Method):
    """Encode with the engine's classes; tensors are frames of their own."""

    name = "vllm"
    title = "vLLM's MsgpackEncoder"
    note = "the installed engine's own classes"
    module = "vllm"

    def __init__(self) -> None:
        import torch
        from vllm.v1 import serial_utils

        # Pinned memory needs an accelerator; on a machine without one the engine cannot decode.
        if not torch.cuda.is_available() and hasattr(serial_utils, "PIN_MEMORY"):
            serial_utils.PIN_MEMORY = False
        self._encoder = serial_utils.MsgpackEncoder()
        self._rest = serial_utils.MsgpackDecoder(list[dict[str, Any]])
        self._decoder = serial_utils.MsgpackDecoder(list[torch.Tensor])

    def encode(self, inputs: MultimodalInputs) -> Frames:
        """Return the tensors' frames, and everything else as a message behind them."""
        plain = plain_of(inputs)
        tensors = []
        for item in plain["items"]:
            tensors.append(item.pop("feature"))
            data = item.pop("model_specific_data")
            item["names"] = list(data)
            tensors += data.values()
        return [*self._encoder.encode([plain]), *self._encoder.encode(tensors)]

    def decode(self, frames: Frames) -> Any:
        """Decode both messages."""
        (plain,) = self._rest.decode(frames[0])
        tensors = iter(self._decoder.decode(frames[1:]))
        for item in plain["items"]:
            item["feature"] = next(tensors)
            item["model_specific_data"] = {name: next(tensors) for name in item.pop("names")}
        return inputs_of(plain)
