"""tenso: a packet of aligned numpy arrays, read as views of the received bytes."""

from __future__ import annotations

import warnings
from typing import Any, Final

import numpy as np
import torch

from mmformat.bench.methods import Frames, Method, inputs_of_named, named_tensors
from mmformat.model import MultimodalInputs

__all__ = ["TensoMethod"]

_REST: Final = "rest"


class TensoMethod(Method):
    """Dump a dict of arrays and load it without a copy."""

    name = "tenso"
    title = "tenso"
    note = "its arrays know no bfloat16: such a tensor goes as bytes, its dtype in the key"
    module = "tenso"

    def __init__(self) -> None:
        # Its views are read-only, and torch says once that it does not know such tensors.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")

    def encode(self, inputs: MultimodalInputs) -> Frames:
        """Return one packet."""
        import tenso

        tensors, rest = named_tensors(inputs)
        arrays = {_REST: np.frombuffer(rest.encode(), np.uint8)}
        for name, tensor in tensors.items():
            dtype = str(tensor.dtype).removeprefix("torch.")
            # Words of the same width keep the shape.
            words = tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor
            arrays[f"{dtype} {name}"] = words.numpy()
        return [tenso.dumps(arrays)]

    def decode(self, frames: Frames) -> Any:
        """View the packet's arrays."""
        import tenso

        arrays = tenso.loads(frames[0])
        rest = arrays.pop(_REST).tobytes()
        tensors = {}
        for key, array in arrays.items():
            dtype, _, name = key.partition(" ")
            tensors[name] = torch.from_numpy(array).view(getattr(torch, dtype))
        return inputs_of_named(tensors, rest)
