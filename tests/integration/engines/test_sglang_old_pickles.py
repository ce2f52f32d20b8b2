"""Old pickles, converted and given back as the class, equal what the engine unpickles."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmformat.adapters.sglang import from_mmformat
from mmformat.legacy import convert
from tests.integration.engines.real import module, needs
from tests.integration.engines.sameness import difference

needs("sglang")

schedule = module("sglang.srt.managers.schedule_batch")
module("sglang.srt.managers.mm_utils")
NEWER = hasattr(schedule, "MultimodalProcessorOutput")
FOLDER = Path(__file__).parents[2] / "data" / "legacy" / ("v0_5_23" if NEWER else "v0_5_5")
FILES = sorted(FOLDER.glob("*.pkl"))


def test_there_are_files() -> None:
    assert len(FILES) >= 8


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_pickle_of_this_version_comes_back_as_its_class(path: Path) -> None:
    real = _unpickled(path)
    if not isinstance(real, dict) and not hasattr(real, "mm_items"):
        pytest.skip(f"{type(real).__name__}: the converter keeps its media alone")
    back = from_mmformat(convert(path), type(real))
    if isinstance(real, dict):
        real = {key: real[key] for key in back}  # the items come first, whatever their place was
    assert difference(_plain(real), _plain(back)) is None


def _unpickled(path: Path) -> Any:
    if path.stem.startswith("shm_pointer"):
        pytest.skip("its segment ended with its server; the converter's own tests refuse it")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pickle.loads(path.read_bytes())


def _plain(value: Any) -> Any:
    """Replace numpy's scalars in lists, which the converter reports as changed to Python's."""
    items = value["mm_items"] if isinstance(value, dict) else value.mm_items
    for item in items:
        for key, part in item.model_specific_data.items():
            if isinstance(part, list):
                item.model_specific_data[key] = [
                    each.item() if isinstance(each, np.generic) else each for each in part
                ]
    return value
