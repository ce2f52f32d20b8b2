"""Compare a conversion with the manifest that the writer's process made of the original."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np

import mmformat as mm
from mmformat.legacy import Conversion
from mmformat.model.tensors import tensor_buffer, tensor_spec

MISSING = object()
_STEP = re.compile(r"\.(\w+)|\[(\d+)\]|\['([^']*)'\]")
_REQUEST = ("rid", "input_text", "input_ids", "token_type_ids")
_ITEM = ("modality", "feature", "precomputed_embeddings", "offsets", "format", "hash", "pad_value",
         "identity", "model_specific_data")  # fmt: skip


def entries(folder: Path) -> list[tuple[Path, dict[str, Any]]]:
    """Return every file of every manifest below ``folder``."""
    found = []
    for manifest in sorted(folder.glob("*/manifest*.json")):
        for entry in json.loads(manifest.read_text())["files"]:
            found.append((manifest.parent / entry["file"], entry))
    return found


def steps(path: str) -> list[str | int]:
    """Split a manifest's path: names and keys as text, indices as int."""
    made: list[str | int] = []
    position = 1
    while position < len(path):
        match = _STEP.match(path, position)
        assert match is not None, path
        name, index, key = match.groups()
        made.append(int(index) if index is not None else name if name is not None else key)
        position = match.end()
    return made


def find(conversion: Conversion, form: str, path: str) -> Any:
    """Return the model's value at a manifest's path; MISSING where it was dropped."""
    todo = steps(path)
    inputs = conversion.inputs[0]
    if form.startswith("Batch"):
        if todo[:1] != ["batch"]:
            return MISSING
        if todo == ["batch"]:
            return conversion.inputs
        inputs, todo = conversion.inputs[todo[1]], todo[2:]
    if "Tokenized" in form:
        if todo[0] in _REQUEST:
            return _walk(inputs.request_data["request"], todo)
        if todo[0] != "mm_inputs":
            return MISSING
        todo = todo[1:]
        if not todo:  # None for a request of text
            own = {k: v for k, v in inputs.request_data.items() if k != "request"}
            return own if own or inputs.items else None
    if todo[:1] == ["mm_items"]:
        return _item(inputs, todo[1:])
    return _walk(inputs.request_data, todo)


def _item(inputs: mm.MultimodalInputs, todo: list[str | int]) -> Any:
    if not todo:
        return inputs.items
    item, todo = inputs.items[todo[0]], todo[1:]
    if not todo:
        return item
    if len(todo) > 1 and todo[1] == "_metadata":
        return _walk(item.model_specific_data, [f"{todo[0]}.attributes", *todo[1:]])
    if todo[0] in _ITEM:
        return _walk(getattr(item, todo[0]), todo[1:])
    # Defaults of the class that say nothing are left out.
    silent = {"keep_device_embedding": False, "pad_values": None}
    if todo[0] not in item.model_specific_data and todo[0] in silent:
        return silent[todo[0]]
    return _walk(item.model_specific_data, todo)


def _walk(value: Any, todo: list[str | int]) -> Any:
    for step in todo:
        value = value[step]
    return value


def compare(conversion: Conversion, entry: dict[str, Any]) -> dict[str, int]:
    """Assert that all that the manifest says is so; return how much was compared."""
    form = entry["form"]
    gone = {note.path for note in conversion.report.dropped}
    done = {"tensors": 0, "scalars": 0, "containers": 0, "aliases": 0, "dropped": 0}

    def dropped(path: str) -> bool:
        return any(path == gap or path.startswith((gap + ".", gap + "[")) for gap in gone)

    for path, expected in entry["tensors"].items():
        value = find(conversion, form, path)
        assert value is not MISSING, path
        _tensor(value, expected, path)
        done["tensors"] += 1
    for path, expected in entry["scalars"].items():
        value = find(conversion, form, path)
        if value is MISSING:
            assert dropped(path), f"{path} is neither there nor listed as dropped"
            done["dropped"] += 1
            continue
        _scalar(value, expected, path)
        done["scalars"] += 1
    for path, (kind, count) in entry["containers"].items():
        value = find(conversion, form, path)
        if value is MISSING:
            assert dropped(path), path
            continue
        if path == "$" and kind == "dict":
            # mm_items became the items; all other keys are the request's.
            assert len(value) == count - 1, path
        elif path.endswith("mm_inputs"):
            assert len(value) == count - 1, path
        elif kind.startswith("array.array"):
            assert isinstance(value, np.ndarray), path
            assert value.dtype == np.dtype(kind.rpartition(":")[2]), path
            assert len(value) == count, path
        else:
            if path.endswith(".model_specific_data"):
                added = {"pad_values", "keep_device_embedding", "feature.attributes"}
                value = {k: v for k, v in value.items() if k not in added}
            assert type(value).__name__ == kind, path
            assert len(value) == count, path
        done["containers"] += 1
    for one, other in entry["aliases"]:
        first, second = find(conversion, form, one), find(conversion, form, other)
        if MISSING in (first, second):
            continue
        assert first is second, f"{one} and {other} were one object"
        done["aliases"] += 1
    return done


def _tensor(value: Any, expected: dict[str, Any], path: str) -> None:
    spec = tensor_spec(value)
    assert (type(value).__module__ == "torch") == (expected["lib"] == "torch"), path
    dtype = expected["dtype"]
    assert spec.dtype == (dtype if expected["lib"] == "torch" else np.dtype(dtype).name), path
    assert list(spec.shape) == expected["shape"], path
    data = bytes(memoryview(tensor_buffer(value)))
    assert len(data) == expected["nbytes"], path
    assert hashlib.sha256(data).hexdigest() == expected["sha256"], path


def _scalar(value: Any, expected: Any, path: str) -> None:
    if isinstance(expected, dict):
        if "enum" in expected:
            assert isinstance(value, mm.Modality | mm.InputFormat), path
            assert value.name == expected["name"], path
            return
        if "array" in expected:
            value, expected = value.tolist(), expected["values"]
        elif "numpy_scalar" in expected:
            expected = expected["value"]
    if isinstance(expected, list) and isinstance(value, tuple):
        value = list(value)
    assert type(value) is type(expected), f"{path}: {value!r} for {expected!r}"
    assert value == expected, path
