"""Pickle protocol 5 with the tensors' bytes as frames of their own."""

from __future__ import annotations

import io
import pickle
from typing import Any

import numpy as np
import torch

from mmformat.bench.arms.arm import Arm, Frames, inputs_of, plain_of
from mmformat.model import MultimodalInputs

__all__ = ["OutOfBandArm"]


def _restore(buffer: Any, dtype: torch.dtype, shape: tuple[int, ...]) -> torch.Tensor:
    # By numpy: torch.frombuffer complains of read-only memory, and received frames are.
    raw = torch.from_numpy(np.frombuffer(buffer, np.uint8))
    return raw.view(dtype).view(shape)


class _Pickler(pickle.Pickler):
    # torch knows nothing of out-of-band buffers: this is what a careful user writes.
    def reducer_override(self, value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return NotImplemented
        raw = value.contiguous().view(torch.uint8).numpy().reshape(-1)
        return _restore, (pickle.PickleBuffer(raw.data), value.dtype, tuple(value.shape))


class OutOfBandArm(Arm):
    """Send buffers as frames of their own."""

    name = "pickle5-oob"
    title = "pickle 5, out-of-band"
    note = "a reducer of our own for torch; frames are not copied by the socket"

    def encode(self, inputs: MultimodalInputs) -> Frames:
        """Return the pickle and the tensors' memory."""
        buffers: list[pickle.PickleBuffer] = []
        stream = io.BytesIO()
        _Pickler(stream, protocol=5, buffer_callback=buffers.append).dump(plain_of(inputs))
        return [stream.getvalue(), *(buffer.raw() for buffer in buffers)]

    def decode(self, frames: Frames) -> Any:
        """Load the pickle around the frames."""
        return inputs_of(pickle.loads(frames[0], buffers=frames[1:]))
