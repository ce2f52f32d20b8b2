"""Count what a fresh process does: the import of the library, and its first put and first get.

Imports nothing of the library before it counts: run as ``python -m benchmarks.cold``.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

__all__ = ["TITLES", "bytecodes", "calls"]

TITLES = {
    "import": "import mmformat",
    "first-put": "the first put of a process",
    "first-get": "attach, and the first get of a process",
}


@contextlib.contextmanager
def calls(found: dict[str, float]) -> Iterator[None]:
    """Count the calls of Python and C functions."""
    count = 0

    def seen(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(seen)
    try:
        yield
    finally:
        sys.setprofile(None)
    found["calls_count"] = count


@contextlib.contextmanager
def bytecodes(found: dict[str, float]) -> Iterator[None]:
    """Count the bytecodes that the interpreter runs."""
    count = 0

    def seen(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal count
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        count += event == "opcode"
        return seen

    sys.settrace(seen)
    try:
        yield
    finally:
        sys.settrace(None)
    found["bytecodes_count"] = count


def _counted(run: Callable[[], Any]) -> tuple[dict[str, float], Any]:
    """Run once, and return the calls and bytecodes of it and what it imported."""
    found: dict[str, float] = {}
    modules = len(sys.modules)
    with calls(found), bytecodes(found):
        result = run()
    found["modules_count"] = len(sys.modules) - modules
    return found, result


def _main() -> None:
    # What any server has imported already is not counted.
    import numpy as np
    import pyarrow.ipc  # noqa: F401
    import torch

    found = {"import": _counted(lambda: __import__("mmformat"))[0]}
    import mmformat as mm

    item = mm.MultimodalDataItem(
        modality=mm.Modality.IMAGE,
        feature=torch.from_numpy(np.ones((256, 1176), np.float32)),
        model_specific_data={"image_grid_thw": torch.tensor([[1, 16, 16]])},
    )
    inputs = mm.MultimodalInputs(items=[item])
    with mm.Arena.create(nbytes=2**22, ranks=1) as arena:
        found["first-put"], handle = _counted(lambda: arena.put(inputs))

        def first_get() -> Any:
            reader = mm.Arena.attach(handle, rank=0)
            return reader, reader.get(handle)

        found["first-get"], (reader, held) = _counted(first_get)
        del held
        reader.close()
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    _main()
