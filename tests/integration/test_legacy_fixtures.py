"""Pickles that SGLang 0.5.5 and 0.5.23 wrote themselves convert with every value equal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import mmformat as mm
from mmformat.legacy import convert_all
from tests.integration.legacy_manifest import compare, entries

FOLDER = Path(__file__).parents[1] / "data" / "legacy"
ENTRIES = entries(FOLDER)


def test_the_corpus_is_there() -> None:
    """A missing corpus fails; it does not pass by having no cases."""
    assert len(ENTRIES) == 27
    assert {entry["expect"] for _, entry in ENTRIES} == {"convert", "reject_or_unresolved"}


@pytest.mark.parametrize("isolated", [False, True], ids=["in-process", "isolated"])
@pytest.mark.parametrize(
    ("path", "entry"), ENTRIES, ids=[f"{path.parent.name}/{path.name}" for path, _ in ENTRIES]
)
def test_every_value_is_equal(path: Path, entry: dict[str, Any], isolated: bool) -> None:
    """Each tensor's dtype, shape and bytes, each scalar and each container is as it was."""
    if entry["expect"] != "convert":
        with pytest.raises(mm.DecodeError) as caught:
            convert_all(path, isolated=isolated)
        assert caught.value.code == "dangling-shm"
        assert caught.value.path == "$.mm_items[0].feature"
        return
    compare(convert_all(path, isolated=isolated), entry)
