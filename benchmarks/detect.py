"""Finding a dictionary in a finished tensor, and turning embeddings away, beside a copy of it."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any, Final, Literal

import torch
from PIL import Image

from benchmarks.materialize import jpeg
from benchmarks.results import Result, Subject
from benchmarks.scenarios import Run
from mmformat.bench.measure import Case, Cell, Samples, interleaved
from mmformat.media.detect import find_dictionary
from mmformat.media.processors import processor_from_config

__all__ = ["run_detect"]

_MEAN: Final = (0.48145466, 0.4578275, 0.40821073)
_STD: Final = (0.26862954, 0.26130258, 0.27577711)
_DTYPES: Final[dict[str, Literal["float32", "bfloat16", "float16"]]] = {
    "float32": "float32",
    "bfloat16": "bfloat16",
    "float16": "float16",
}
_NOTES: Final = {
    "mmformat": ("mmformat, find_dictionary", "every value is looked at"),
    "mmformat-hinted": ("mmformat, told the mean and std", "compares with the table they make"),
    "memcpy": ("control: one memcpy", "torch.Tensor.copy_ into touched memory"),
}


def run_detect(run: Run) -> Result:
    """Measure ``find_ns`` with one thread of torch.

    Parameters
    ----------
    run : Run
        What to measure.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    result = Result(
        scenario="detect",
        settings={"quick": run.quick, "rounds": run.rounds, "threads": 1},
        notes=_NOTES,
    )
    try:
        for number, name in enumerate(run.payloads):
            if run.follow is not None:
                run.follow(name, number / len(run.payloads))
            _measured(result, name, run.methods, run.rounds or (3 if run.quick else 9))
    finally:
        torch.set_num_threads(threads)
    return result


def _measured(result: Result, name: str, methods: Sequence[str], rounds: int) -> None:
    tensor = _tensor(name)
    raw = torch.as_tensor(tensor).reshape(-1).view(torch.uint8)
    target = torch.empty_like(raw)
    found = find_dictionary(tensor)
    is_exact = found is None or torch.equal(
        torch.as_tensor(found.expand()).reshape(-1).view(torch.uint8), raw
    )
    cases = {
        "mmformat": lambda: find_dictionary(tensor),
        "mmformat-hinted": lambda: find_dictionary(tensor, mean=_MEAN, std=_STD),
        "memcpy": lambda: target.copy_(raw),
    }
    samples = interleaved(
        [Case(name=method, run=run) for method, run in cases.items() if method in methods],
        rounds=rounds,
        repeats=3,
    )
    shape = tuple(tensor.shape)
    result.subjects[name] = Subject(
        name=name,
        title=f"{name.replace('-', ', ')} {shape}, {raw.nbytes / 1e6:.1f} MB, "
        f"{'no dictionary' if found is None else 'a dictionary'}",
        nbytes=raw.nbytes,
    )
    for method, times in samples.items():
        rates = Samples("bytes/ns", [raw.nbytes / value for value in times.values])
        metrics = (
            {"find_ns": times} if found is None else {"find_ns": times, "rate_bytes/ns": rates}
        )
        result.cells.append(
            Cell(
                payload=name,
                method=method,
                metrics=metrics,
                correct=is_exact,
                wire_nbytes=raw.nbytes,
            )
        )


def _tensor(name: str) -> Any:
    what, _, dtype = name.partition("-")
    if what == "pixels":
        processor = processor_from_config({"image_processor_type": "Qwen2VLImageProcessor"})
        with Image.open(io.BytesIO(jpeg("hubble-1000x872.jpg", 1024, 1024))) as image:
            return processor(image, encoding="plain", dtype=_DTYPES[dtype]).feature
    generator = torch.Generator().manual_seed(0)
    return torch.randn((1225, 3584), generator=generator).to(getattr(torch, dtype))
