"""Apache Fory (pyfory): its graph serializer with the tensors' bytes out of band."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch

from mmformat.bench.methods import Frames, Method, inputs_of, plain_of
from mmformat.model import MultimodalInputs

__all__ = ["ForyMethod"]


class ForyMethod(Method):
    """Serialize builtin types and numpy arrays; buffers are frames of their own."""

    name = "pyfory"
    title = "pyfory, out-of-band"
    note = "it knows no torch: arrays of bytes with dtype and shape; hashes over 63 bits as text"
    module = "pyfory"

    def __init__(self) -> None:
        import pyfory

        # Out of immutable bytes its arrays are read-only, which torch says once.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        self._fory = pyfory.Fory(xlang=False, ref=False, strict=True)

    def encode(self, inputs: MultimodalInputs) -> Frames:
        """Return the graph's bytes and the arrays' memory."""
        plain = plain_of(inputs)
        for item in plain["items"]:
            item["feature"] = _pack(item["feature"])
            data = item["model_specific_data"]
            item["model_specific_data"] = {name: _pack(each) for name, each in data.items()}
            item["hash"] = None if item["hash"] is None else str(item["hash"])
        buffers: list[Any] = []
        graph = self._fory.serialize(plain, buffer_callback=buffers.append)
        return [graph, *(buffer.getbuffer() for buffer in buffers)]

    def decode(self, frames: Frames) -> Any:
        """Read the graph around the frames."""
        plain = self._fory.deserialize(bytes(frames[0]), buffers=list(frames[1:]))
        for item in plain["items"]:
            item["feature"] = _unpack(item["feature"])
            data = item["model_specific_data"]
            item["model_specific_data"] = {name: _unpack(each) for name, each in data.items()}
            item["hash"] = None if item["hash"] is None else int(item["hash"])
        return inputs_of(plain)


def _pack(tensor: torch.Tensor) -> dict[str, Any]:
    raw = tensor.contiguous().reshape(-1).view(torch.uint8).numpy()
    dtype = str(tensor.dtype).removeprefix("torch.")
    return {"raw": raw, "dtype": dtype, "shape": list(tensor.shape)}


def _unpack(packed: dict[str, Any]) -> torch.Tensor:
    raw = torch.from_numpy(np.asarray(packed["raw"]))
    return raw.view(getattr(torch, packed["dtype"])).view(packed["shape"])
