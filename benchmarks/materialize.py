"""Photographs to tensors: our processors beside transformers' two backends, and the pool."""

from __future__ import annotations

import importlib
import importlib.util
import io
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
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
_JPEGS: Final = {"1024": (1024, 1024), "4k": (3840, 2160)}
_OPENED: Final = {"0.25mp": (568, 440), "1mp": (1130, 885), "4mp": (2250, 1778)}
_FAMILIES: Final[dict[str, tuple[str, str, dict[str, Any]]]] = {
    "qwen2-vl": ("qwen2_vl", "Qwen2VLImageProcessor", _QWEN),
    "clip": ("clip", "CLIPImageProcessor", {}),
    "llava-next": (
        "llava_next",
        "LlavaNextImageProcessor",
        {"size": {"shortest_edge": 336}, "crop_size": {"height": 336, "width": 336}},
    ),
}
_BACKENDS: Final[tuple[Literal["torchvision", "pil"], ...]] = ("torchvision", "pil")
_POOLED: Final = "photos-32"
_PHOTOS_COUNT: Final = 32
_TITLES: Final = {
    "qwen2-vl": "Qwen2-VL",
    "clip": "CLIP",
    "llava-next": "LLaVA-NeXT",
    "1024": "a JPEG of 1024 x 1024",
    "4k": "a JPEG of 3840 x 2160",
    "0.25mp": "decoded, 568 x 440",
    "1mp": "decoded, 1130 x 885",
    "4mp": "decoded, 2250 x 1778",
}
_POOLS: Final[dict[str, tuple[Literal["thread", "process"], int]]] = {
    "mmformat-thread-1": ("thread", 1),
    "mmformat-thread-2": ("thread", 2),
    "mmformat-process-1": ("process", 1),
    "mmformat-process-2": ("process", 2),
}
_NOTES: Final = {
    "mmformat-dictionary": (
        "mmformat, torchvision backend, dictionary",
        "codes and a table; no float is made; one thread of torch",
    ),
    "mmformat-plain": ("mmformat, torchvision backend, plain", "the same values as float32"),
    "mmformat-dictionary-pil": ("mmformat, PIL backend, dictionary", "codes and a table"),
    "mmformat-plain-pil": ("mmformat, PIL backend, plain", "the same values as float32"),
    "transformers-torchvision": (
        "transformers, torchvision backend",
        "its own processor, one thread of torch; what engines run",
    ),
    "transformers-pil": ("transformers, PIL backend", "its own processor"),
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
    """Measure ``cpu_ns`` and ``materialized_ns`` from a JPEG or a decoded image to features.

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
        plan = run.rounds or (3 if run.quick else 5 if name.endswith(("4k", "4mp")) else 9)
        if name == _POOLED:
            _pooled(result, run.methods, plan)
        else:
            _processed(result, name, run.methods, plan)
    return result


def _processed(result: Result, name: str, methods: Sequence[str], rounds: int) -> None:
    family, _, size = name.rpartition("-")
    module, kind, settings = _FAMILIES[family]
    file = jpeg("hubble-1000x872.jpg", *(_JPEGS.get(size) or _OPENED[size]))
    opened = _open(file).convert("RGB")

    def source() -> Image.Image:
        return _open(file) if size in _JPEGS else opened

    cases: dict[str, Callable[[], Any]] = {}
    expected: dict[str, bytes] = {}
    for backend in _BACKENDS:
        end = "" if backend == "torchvision" else "-pil"
        named = {"image_processor_type": kind, **settings}
        ours: Any = processor_from_config(named, backend=backend)
        cases[f"mmformat-dictionary{end}"] = _run(ours, source, encoding="dictionary")
        cases[f"mmformat-plain{end}"] = _run(ours, source, encoding="plain")
        method = f"transformers-{backend}"
        theirs = _transformers(module, kind, settings, backend)
        if theirs is None:
            result.missing[method] = f"transformers' {backend} backend is not installed"
        else:
            cases[method] = _theirs(theirs, source)
        bits = _bytes(ours(source(), encoding="plain").feature)
        for each in (f"mmformat-dictionary{end}", f"mmformat-plain{end}", method):
            expected[each] = bits
    if size in _JPEGS:
        cases["pil-decode"] = lambda: np.asarray(_open(file).convert("RGB"))
    cases = {method: case for method, case in cases.items() if method in methods}
    if not cases:
        return
    nbytes = len(next(iter(expected.values())))
    result.subjects[name] = Subject(
        name=name,
        title=f"{_TITLES[family]}, {_TITLES[size]}, {nbytes / 1e6:.1f} MB of f32",
        nbytes=nbytes,
    )
    cells = {method: Cell(payload=name, method=method) for method in cases}
    with _one_thread():
        for turn in turns(list(cases), rounds=rounds):
            found = _timed(cells[turn.name], cases[turn.name], is_recorded=turn.is_recorded)
            cells[turn.name].wire_nbytes = found.nbytes
            if turn.number < 0 and turn.name in expected:
                cells[turn.name].correct = _bytes(found) == expected[turn.name]
            del found
    result.cells += cells.values()


def _run(processor: Any, source: Callable[[], Image.Image], *, encoding: str) -> Callable[[], Any]:
    return lambda: processor(source(), encoding=encoding).feature


def _theirs(processor: Any, source: Callable[[], Image.Image]) -> Callable[[], Any]:
    return lambda: processor(source().convert("RGB"), return_tensors="pt")["pixel_values"]


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let torch use one thread, so that CPU time is that of the work alone."""
    try:
        import torch
    except ImportError:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


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
            found = _timed(cell, cases[turn.name], is_recorded=turn.is_recorded, children=True)
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


def _timed(cell: Cell, run: Callable[[], Any], *, is_recorded: bool, children: bool = False) -> Any:
    with without_collection():
        cpu, start_ns = _cpu_ns(children), clock_ns()
        found = run()
        duration_ns, cpu = clock_ns() - start_ns, _cpu_ns(children) - cpu
    if is_recorded:
        cell.add(cpu_ns=cpu, materialized_ns=duration_ns)
    return found


def _cpu_ns(with_children: bool) -> int:
    """Return the CPU time of this process so far, and of its children, which takes 1 ms to ask."""
    children = psutil.Process().children(recursive=True) if with_children else []
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


def _transformers(module: str, kind: str, settings: dict[str, Any], backend: str) -> Any:
    """Return transformers' processor of a backend, or None where it is not installed."""
    if backend == "torchvision" and importlib.util.find_spec("torchvision") is None:
        return None
    pil = backend == "pil"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = importlib.import_module(
                f"transformers.models.{module}.image_processing_{'pil_' if pil else ''}{module}"
            )
        except ImportError:
            return None
        return getattr(found, f"{kind}Pil" if pil else kind)(**settings)
