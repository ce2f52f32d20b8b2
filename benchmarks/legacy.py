"""Old pickles: convert, in this process and isolated, beside pickle.loads and a copy."""

from __future__ import annotations

import io
import pickle
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import torch

from benchmarks.payloads import payload
from benchmarks.results import Result, Subject
from benchmarks.scenarios import Run
from mmformat.bench.measure import Cell, clock_ns, turns, without_collection
from mmformat.bench.payloads import digests_of, touch
from mmformat.errors import MMFormatError, ModelError
from mmformat.legacy.convert import convert
from mmformat.model import MultimodalInputs

__all__ = ["run_legacy"]

_FOLDER: Final = Path(__file__).parents[2] / "tests/data/legacy"
_LEAST_NBYTES: Final = 60_000
"""Of the tests' sixty files, those that hold more than the fixed cost of any."""

_MODULE: Final = "sglang.srt.managers.schedule_batch"
_MADE: Final = {"made-small": "image-small", "made": "image"}
_NOTES: Final = {
    "mmformat-isolated": ("mmformat, convert, isolated", "the default: a child without files"),
    "mmformat-in-process": ("mmformat, convert, in this process", "the same machine, no child"),
    "pickle-loads": (
        "pickle.loads",
        "runs whatever the file says; the engine's classes are stand-ins without work of their own",
    ),
    "read": ("control: copy the file's bytes", "one copy of the same bytes; nothing is parsed"),
}


def run_legacy(run: Run, *, folder: str | None = None) -> Result:
    """Measure ``loaded_ns``: from a pickle's bytes to tensors of which every page was read.

    Parameters
    ----------
    run : Run
        What to measure.
    folder : str, optional
        Where the files are; those of this repository's tests when omitted, if they are there.

    Raises
    ------
    ModelError
        When there is no file of a name.
    """
    sources: dict[str, bytes] = {name: _made(each) for name, each in _MADE.items()}
    if folder is not None:
        sources |= _files(Path(folder), least_nbytes=0)
    elif not run.quick:
        sources |= _files(_FOLDER, least_nbytes=_LEAST_NBYTES)
    for name in run.payloads:
        if name not in sources:
            raise ModelError(f"expected a file of {', '.join(sources)}, got {name!r}")
    chosen = run.payloads or list(sources)
    result = Result(
        scenario="legacy",
        settings={"quick": run.quick, "rounds": run.rounds},
        notes=_NOTES,
        subjects={name: _subject(name, sources[name]) for name in chosen},
    )
    for number, name in enumerate(chosen):
        if run.follow is not None:
            run.follow(name, number / len(chosen))
        plan = run.rounds or (3 if run.quick else 15)
        cells, reasons = _measured(name, sources[name], run.methods, plan)
        result.cells += cells
        result.missing |= reasons
    return result


def _subject(name: str, data: bytes) -> Subject:
    title = f"a pickle of {payload(_MADE[name]).title}" if name in _MADE else name
    return Subject(name=name, title=title, nbytes=len(data))


def _files(folder: Path, *, least_nbytes: int) -> dict[str, bytes]:
    found = {}
    for path in sorted(folder.rglob("*.pkl")):
        if path.stat().st_size >= least_nbytes:
            found[f"{path.parent.name}/{path.name.removesuffix('.pkl')}"] = path.read_bytes()
    return found


def _measured(
    name: str, data: bytes, methods: Sequence[str], rounds: int
) -> tuple[list[Cell], dict[str, str]]:
    loads: dict[str, Callable[[], Any]] = {
        "mmformat-isolated": lambda: convert(data),
        "mmformat-in-process": lambda: convert(data, isolated=False),
        "pickle-loads": lambda: _Loader(io.BytesIO(data)).load(),
        "read": lambda: [torch.frombuffer(bytearray(data), dtype=torch.uint8)],
    }
    cells: dict[str, Cell] = {}
    reasons: dict[str, str] = {}
    expected: list[str] | None = None
    for method in methods:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch of its own old storages
            try:
                found = loads[method]()
            except (MMFormatError, AttributeError, TypeError, RuntimeError, ValueError) as error:
                reasons[f"{method} of {name}"] = str(error).partition("\n")[0]
                continue
        cells[method] = Cell(payload=name, method=method, wire_nbytes=len(data))
        if isinstance(found, MultimodalInputs):
            digests = digests_of(found)
            cells[method].correct = digests == (expected or digests)
            expected = expected or digests
    for turn in turns(list(cells), rounds=rounds):
        with warnings.catch_warnings(), without_collection():
            warnings.simplefilter("ignore")
            start_ns = clock_ns()
            found = loads[turn.name]()
            touch(found)
            duration_ns = clock_ns() - start_ns
        if turn.is_recorded:
            cells[turn.name].add(loaded_ns=duration_ns)
        del found
    return list(cells.values()), reasons


class _StandIn:
    """Take the place of a class that is not installed here."""

    def __init__(self, *values: Any, **named: Any) -> None:
        self.__dict__.update(named, values=values)

    def __setstate__(self, state: Any) -> None:
        self.__dict__.update(state if isinstance(state, dict) else {"state": state})


class _Loader(pickle.Unpickler):
    def find_class(self, module: str, name: str, /) -> Any:
        try:
            return super().find_class(module, name)
        except (ImportError, AttributeError):
            return type(name, (_StandIn,), {"__module__": module})


def _made(name: str) -> bytes:
    """Return a pickle as SGLang 0.5.5's tokenizer wrote it, of a payload's size."""
    (item,) = payload(name).make(0).items
    with _engine_classes() as classes:
        modality = classes["Modality"](1)
        made = classes["MultimodalDataItem"]()
        made.__dict__.update(
            modality=modality,
            hash=7,
            pad_value=7,
            offsets=item.offsets,
            feature=item.feature,
            precomputed_embeddings=None,
            model_specific_data=item.model_specific_data,
        )
        inputs = classes["MultimodalInputs"]()
        inputs.__dict__.update(mm_items=[made], im_token_id=151655)
        return pickle.dumps(inputs, protocol=5)


@contextmanager
def _engine_classes() -> Iterator[dict[str, Any]]:
    """Let classes of the engine's names be importable, as pickle asks, while one is written."""
    import enum

    parts = _MODULE.split(".")
    names = [".".join(parts[: end + 1]) for end in range(len(parts))]
    before = {name: sys.modules.get(name) for name in names}
    module = ModuleType(_MODULE)
    classes: dict[str, Any] = {
        name: type(name, (), {"__module__": _MODULE})
        for name in ("MultimodalDataItem", "MultimodalInputs")
    }
    classes["Modality"] = enum.Enum("Modality", {"IMAGE": 1}, module=_MODULE)
    module.__dict__.update(classes)
    try:
        for name in names:
            sys.modules[name] = ModuleType(name)
        sys.modules[_MODULE] = module
        yield classes
    finally:
        for name, was in before.items():
            if was is None:
                sys.modules.pop(name, None)
            else:
                sys.modules[name] = was
