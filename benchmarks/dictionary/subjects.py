"""The photographs as JPEG files of the sizes in question, and one clock: CPU time in turns."""

from __future__ import annotations

import gc
import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from mmformat.measure import Samples, turns

PHOTOS = Path(__file__).parents[2] / "mmformat/bench/photos"
NAMES = ("hubble-1000x872.jpg", "retina-1411.jpg", "astronaut-512.jpg")
QWEN = {"min_pixels": 3136, "max_pixels": 16384 * 28 * 28}


def jpeg(name: str, width: int, height: int) -> bytes:
    """Return a photograph, resized, as a JPEG of quality 90."""
    file = io.BytesIO()
    photo = Image.open(PHOTOS / name).convert("RGB")
    photo.resize((width, height), Image.Resampling.LANCZOS).save(file, "JPEG", quality=90)
    return file.getvalue()


def cpu_ms(cases: dict[str, Callable[[], Any]], rounds: int) -> dict[str, Samples]:
    """Run the cases in turns; return the CPU milliseconds of this process for each run."""
    samples = {name: Samples("ms") for name in cases}
    for turn in turns(list(cases), rounds=rounds):
        gc.collect()
        start = time.process_time_ns()
        result = cases[turn.name]()
        spent = (time.process_time_ns() - start) / 1e6
        del result
        if turn.is_recorded:
            samples[turn.name].values.append(spent)
    return samples
