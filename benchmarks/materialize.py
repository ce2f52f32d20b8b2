"""Photographs to tensors: our processors beside transformers', and the pool's workers."""

from __future__ import annotations

import importlib
import io
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from typing import Any, Final, Literal

import numpy as np
import psutil
from PIL import Image

from benchmarks.payloads import PHOTOS
from benchmarks.results import Result, Subject
from benchmarks.scenarios import Run
from mmformat.bench.measure import Cell, clock_ns, turns, without_collection
from mmformat.media import materialize
from mmformat.media.pool import MaterializePool
from mmformat.media.processors import processor_from_config
from mmformat.model import DictionaryTensor, Modality, MultimodalDataItem, MultimodalInputs, Source

__all__ = ["jpeg", "run_materialize"]

_QWEN: Final = {"min_pixels": 3136, "max_pixels": 16384 * 28 * 28}
_SIZES: Final = {"1024": (1024, 1024), "4k": (3840, 2160)}
_FAMILIES: Final = {
    "qwen2-vl": ("Qwen2VLImageProcessor", _QWEN),
    "clip": ("CLIPImageProcessor", {}),
}
_POOLED: Final = "photos-32"
_PHOTOS_COUNT: Final = 32
_TITLES: Final = {
    "qwen2-vl": "Qwen2-VL",
    "clip": "CLIP",
    "1024": "1024 x 1024",
    "4k": "3840 x 2160",
}
_POOLS: Final[dict[str, tuple[Literal["thread", "process"], int]]] = {
    "mmformat-thread-1": ("thread", 1),
    "mmformat-thread-2": ("thread", 2),
    "mmformat-process-1": ("process", 1),
    "mmformat-process-2": ("process", 2),
}
_NOTES: Final = {
    "mmformat-dictionary": ("mmformat, dictionary", "codes and a table; no float is made"),
    "mmformat-plain": ("mmformat, plain", "the same values as float32"),
    "transformers": ("transformers, PIL backend", "its own processor, from the same JPEG"),
    "pil-decode": ("control: decode the JPEG", "PIL alone; no pixel is resized or normalized"),
    "in-line": ("mm.materialize, in line", "no pool"),
    **{
        name: (f"pool, {count} {kind if count == 1 else f'{kind}s'}", "CPU is of all processes")
        for name, (kind, count) in _POOLS.items()
    },
}


def jpeg(name: str, width: int, height: int) -> bytes:
    """Return one of the photographs, resized, as a JPEG of quality 90."""
    file = io.BytesIO()
    with Image.open(PHOTOS[name]) as photo:
        resized = photo.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)
    resized.save(file, "JPEG", quality=90)
    return file.getvalue()


def run_materialize(run: Run) -> Result:
    """Measure ``cpu_ns`` and ``materialized_ns`` from a JPEG's bytes to features.

    Parameters
    ----------
    run : Run
        What to measure.
    """
    result = Result(
        scenario="materialize",
        settings={"quick": run.quick, "rounds": run.rounds},
        notes=_NOTES,
    )
    for number, name in enumerate(run.payloads):
        if run.follow is not None:
            run.follow(name, number / len(run.payloads))
        plan = run.rounds or (3 if run.quick else 9 if name.endswith("1024") else 5)
        if name == _POOLED:
            _pooled(result, run.methods, plan)
        else:
            _processed(result, name, run.methods, plan)
    return result


def _processed(result: Result, name: str, methods: Sequence[str], rounds: int) -> None:
    family, _, size = name.rpartition("-")
    kind, settings = _FAMILIES[family]
    file = jpeg("hubble-1000x872.jpg", *_SIZES[size])
    ours = processor_from_config({"image_processor_type": kind, **settings})
    cases: dict[str, Callable[[], Any]] = {
        "mmformat-dictionary": lambda: ours(_open(file), encoding="dictionary").feature,
        "mmformat-plain": lambda: ours(_open(file), encoding="plain").feature,
        "pil-decode": lambda: np.asarray(_open(file).convert("RGB")),
    }
    theirs = _transformers(kind, settings)
    if theirs is None:
        result.missing["transformers"] = "transformers is not installed"
    else:
        cases["transformers"] = lambda: theirs(_open(file))
    cases = {method: case for method, case in cases.items() if method in methods}
    if not cases:
        return
    expected = _bytes(ours(_open(file), encoding="plain").feature)
    result.subjects[name] = Subject(
        name=name,
        title=f"{_TITLES[family]}, a JPEG of {_TITLES[size]}, {len(expected) / 1e6:.1f} MB of f32",
        nbytes=len(expected),
    )
    cells = {method: Cell(payload=name, method=method) for method in cases}
    for turn in turns(list(cases), rounds=rounds):
        found = _timed(cells[turn.name], cases[turn.name], is_recorded=turn.is_recorded)
        cells[turn.name].wire_nbytes = found.nbytes
        if turn.number < 0 and turn.name != "pil-decode":
            cells[turn.name].correct = _bytes(found) == expected
        del found
    result.cells += cells.values()


def _pooled(result: Result, methods: Sequence[str], rounds: int) -> None:
    data = (PHOTOS["hubble-1000x872.jpg"]).read_bytes()
    processor = processor_from_config({"image_processor_type": "Qwen2VLImageProcessor"})
    with ExitStack() as stack:
        cases: dict[str, Callable[[], list[Any]]] = {}
        if "in-line" in methods:
            cases["in-line"] = lambda: [materialize(each, processor) for each in _requests(data)]
        for name, (kind, count) in _POOLS.items():
            if name in methods:
                pool = stack.enter_context(MaterializePool(count, kind, processor=processor))
                cases[name] = lambda pool=pool: list(pool.map(_requests(data)))  # type: ignore[misc]
        if not cases:
            return
        expected = materialize(_requests(data)[0], processor).items[0].identity
        result.subjects[_POOLED] = Subject(
            name=_POOLED, title="32 photographs of 1000 x 872", nbytes=_PHOTOS_COUNT * len(data)
        )
        cells = {name: Cell(payload=_POOLED, method=name) for name in cases}
        for turn in turns(list(cases), rounds=rounds):
            cell = cells[turn.name]
            found = _timed(cell, cases[turn.name], is_recorded=turn.is_recorded)
            identities = {
                each.items[0].identity if isinstance(each, MultimodalInputs) else None
                for each in found
            }
            cell.correct = cell.correct and identities == {expected}
        result.cells += cells.values()


def _requests(data: bytes) -> list[MultimodalInputs]:
    return [
        MultimodalInputs(items=[MultimodalDataItem(modality=Modality.IMAGE, feature=Source(data))])
        for _ in range(_PHOTOS_COUNT)
    ]


def _timed(cell: Cell, run: Callable[[], Any], *, is_recorded: bool) -> Any:
    with without_collection():
        cpu, start_ns = _cpu_ns(), clock_ns()
        found = run()
        duration_ns, cpu = clock_ns() - start_ns, _cpu_ns() - cpu
    if is_recorded:
        cell.add(cpu_ns=cpu, materialized_ns=duration_ns)
    return found


def _cpu_ns() -> int:
    """Return the CPU time of this process and of its children so far."""
    children = psutil.Process().children(recursive=True)
    spent_s = 0.0
    for child in children:
        with suppress(psutil.Error):  # it ended between the two calls
            spent_s += sum(child.cpu_times()[:2])
    return time.process_time_ns() + int(spent_s * 1e9)


def _open(file: bytes) -> Image.Image:
    return Image.open(io.BytesIO(file))


def _bytes(feature: Any) -> bytes:
    plain = feature.expand() if isinstance(feature, DictionaryTensor) else feature
    return np.asarray(plain).tobytes()


def _transformers(kind: str, settings: dict[str, Any]) -> Callable[[Image.Image], Any] | None:
    """Return transformers' processor of the PIL backend, or None where it is not installed."""
    name = {"Qwen2VLImageProcessor": "qwen2_vl", "CLIPImageProcessor": "clip"}[kind]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            module = importlib.import_module(
                f"transformers.models.{name}.image_processing_pil_{name}"
            )
        except ImportError:
            return None
        processor = getattr(module, f"{kind}Pil")(**settings)

    def run(image: Image.Image) -> Any:
        return processor(image, return_tensors="np")["pixel_values"]

    return run
