"""A producer that is killed while it materializes inside its arena; spawned by the test."""

from __future__ import annotations

import os
import signal
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import torch
from PIL import Image

import mmformat as mm
from mmformat.media.image import FixedSizeImageProcessor

PIXELS = np.random.default_rng(5).integers(0, 256, (224, 224, 3), np.uint8)


class Killed(FixedSizeImageProcessor):
    """Write half of the codes, and die as a process that is out of memory does."""

    __slots__ = ()

    def write(self, pixels: Image.Image, codes: Any) -> None:
        codes[:, 0] = 7
        os.kill(os.getpid(), signal.SIGKILL)


def produce(pipe: Connection, reuse: Any) -> None:
    """Announce one good request; then die in the second image of another."""
    torch.set_num_threads(1)
    arena = mm.Arena.create(nbytes=2**22, ranks=1)
    handle, _ = arena.materialize(request_of(PIXELS), FixedSizeImageProcessor(), reuse=reuse)
    pipe.send((arena.name, bytes(handle)))
    pipe.recv()  # the rank is there
    good = mm.materialize(request_of(PIXELS + 1), FixedSizeImageProcessor()).items
    inputs = request_of(PIXELS + 2)
    inputs.items[:0] = good
    arena.materialize(inputs, Killed(), reuse=reuse)


def request_of(pixels: np.ndarray) -> mm.MultimodalInputs:
    """Return a request of one image."""
    item = mm.MultimodalDataItem(modality=mm.Modality.IMAGE, feature=mm.Source(pixels))
    return mm.MultimodalInputs(items=[item])
