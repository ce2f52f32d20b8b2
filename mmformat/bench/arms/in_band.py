"""Pickle with the tensors' bytes in the stream, as `send_pyobj` does it."""

from __future__ import annotations

import pickle
from typing import Any, ClassVar

from mmformat.bench.arms.arm import Arm, Frames, inputs_of, plain_of
from mmformat.model import MultimodalInputs

__all__ = ["Pickle4Arm", "Pickle5Arm"]


class Pickle4Arm(Arm):
    """Pickle protocol 4."""

    name = "pickle4"
    title = "pickle 4, in-band"
    note = "torch's own reduction; the socket copies, as send_pyobj and recv_pyobj do"
    zmq_copies = True
    protocol: ClassVar[int] = 4

    def encode(self, inputs: MultimodalInputs) -> Frames:
        """Return one pickle."""
        return [pickle.dumps(plain_of(inputs), protocol=self.protocol)]

    def decode(self, frames: Frames) -> Any:
        """Load the pickle."""
        return inputs_of(pickle.loads(frames[0]))


class Pickle5Arm(Pickle4Arm):
    """Pickle protocol 5."""

    name = "pickle5"
    title = "pickle 5, in-band"
    protocol = 5
