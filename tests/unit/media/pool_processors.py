"""Processors that a worker process can import, and that fail in the ways a decoder can."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


def pixels(image: Any) -> dict[str, Any]:
    """Return the pixels, and what the image says of itself."""
    return {"feature": np.asarray(image), "mode": image.mode, "pid": os.getpid()}


def frames(video: Any) -> dict[str, Any]:
    """Return two frames."""
    return {"feature": np.stack(list(video.frames([0, 3]))), "fps": video.fps}


def samples(audio: Any) -> np.ndarray:
    """Return the samples."""
    return np.asarray(audio.samples)


def chatty(image: Any) -> np.ndarray:
    """Print, as processors do."""
    print("processor speaking")
    return np.asarray(image)


def give_a_set(image: Any) -> dict[str, Any]:
    """Return what no message carries."""
    return {"feature": np.zeros(1), "names": {"a"}}


@dataclass(frozen=True)
class Scripted:
    """Do what the first pixel says, and leave a line in ``folder`` for each call."""

    folder: str
    crash: str = "KILL"

    def __call__(self, image: Any) -> np.ndarray:
        """1: crash always. 2: crash the first time. 3: wait for the gate. 4: raise. Else: go on."""
        array = np.asarray(image)
        what = int(array.flat[0])
        calls = Path(self.folder) / f"calls-{what}"
        with calls.open("a") as file:
            file.write("x")
        count = calls.stat().st_size
        if what == 1 or (what == 2 and count == 1):
            os.kill(os.getpid(), getattr(signal, f"SIG{self.crash}"))
            time.sleep(60)
        if what == 3:
            (Path(self.folder) / "waiting").touch()
            while not (Path(self.folder) / "gate").exists():
                time.sleep(0.005)
        if what == 4:
            raise KeyError("no such pixel")
        return array


@dataclass(frozen=True)
class OnlyHere:
    """Refuse to be made in another process."""

    pid: int

    def __post_init__(self) -> None:
        """Compare the process."""
        if os.getpid() != self.pid:
            raise RuntimeError("not here")

    def __call__(self, image: Any) -> np.ndarray:
        """Return the pixels."""
        return np.asarray(image)
