"""msgspec with tensors as frames of their own, the way vLLM's MsgpackEncoder does it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from mmformat.bench.arms.arm import Arm, Frames, inputs_of, plain_of
from mmformat.model import MultimodalInputs

__all__ = ["MsgpackFramesArm"]

_THRESHOLD_NBYTES = 256
_TENSOR = 1


class MsgpackFramesArm(Arm):
    """Write msgpack; a tensor of 256 bytes and more is a frame, a smaller one is inline."""

    name = "msgspec-oob"
    title = "msgspec + frames (as vLLM)"
    note = "views only; frames are not copied by the socket"
    module = "msgspec"

    def __init__(self) -> None:
        import msgspec

        self._ext = msgspec.msgpack.Ext
        self._encoder = msgspec.msgpack.Encoder(enc_hook=self._write)
        self._decoder = msgspec.msgpack.Decoder(ext_hook=self._read)
        self._nested = msgspec.msgpack.Encoder()
        self._nested_decoder = msgspec.msgpack.Decoder()
        self._out: list[Any] = []
        self._in: Frames = ()

    def encode(self, inputs: MultimodalInputs) -> Frames:
        """Return the msgpack bytes and the tensors' memory."""
        self._out = [b""]
        self._out[0] = self._encoder.encode(plain_of(inputs))
        frames, self._out = self._out, []
        return frames

    def decode(self, frames: Frames) -> Any:
        """Read the msgpack bytes; tensors are views of the frames."""
        self._in = frames
        try:
            return inputs_of(self._decoder.decode(frames[0]))
        finally:
            self._in = ()

    def _write(self, value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            raise TypeError(f"expected a tensor, got {type(value).__name__}")
        raw = value.contiguous().view(torch.uint8).numpy().reshape(-1)
        place: int | bytes
        if raw.nbytes < _THRESHOLD_NBYTES:
            place = raw.tobytes()
        else:
            place = len(self._out)
            self._out.append(raw.data)
        dtype = str(value.dtype).removeprefix("torch.")
        return self._ext(_TENSOR, self._nested.encode((dtype, tuple(value.shape), place)))

    def _read(self, code: int, data: memoryview) -> Any:
        if code != _TENSOR:
            raise ValueError(f"expected extension {_TENSOR}, got {code}")
        dtype, shape, place = self._nested_decoder.decode(data)
        buffer = self._in[place] if isinstance(place, int) else bytearray(place)
        raw = torch.from_numpy(np.frombuffer(buffer, np.uint8))
        return raw.view(getattr(torch, dtype)).view(shape)
