"""The front door offers what was promised, no more than is documented, and all of it works."""

from __future__ import annotations

import re

import mmformat
from tests.architecture.tree import ROOT

# What README and the design promise; a room that is missing must fail here, not pass by absence.
PROMISED = {
    "Arena",
    "Compression",
    "DictionaryTensor",
    "EncodedMessage",
    "Limits",
    "MMFormatError",
    "Modality",
    "MultimodalDataItem",
    "MultimodalInputs",
    "Source",
    "decode",
    "encode",
    "materialize",
}


def test_what_was_promised_is_there() -> None:
    missing = sorted(PROMISED - set(mmformat.__all__))
    assert not missing, f"not in mmformat.__all__: {missing}"


def test_every_export_can_be_had() -> None:
    for name in mmformat.__all__:
        assert getattr(mmformat, name) is not None, name


def test_every_export_is_documented() -> None:
    reference = (ROOT / "docs" / "REFERENCE.md").read_text("utf-8")
    told = set(re.findall(r"^\| `(?:mm\.)?(\w+)`", reference, flags=re.MULTILINE))
    exported = set(mmformat.__all__)
    assert not exported - told, f"docs/REFERENCE.md lacks {sorted(exported - told)}"
    assert not told - exported, f"not exported, but told: {sorted(told - exported)}"
    modules = re.findall(r"^\| `mmformat\.([a-z_.]+)`", reference, flags=re.MULTILINE)
    places = [ROOT.joinpath("mmformat", *module.split(".")) for module in modules]
    assert places
    missing = [
        place for place in places if not (place.is_dir() or place.with_suffix(".py").exists())
    ]
    assert not missing, f"no such module: {missing}"


def test_every_export_explains_itself() -> None:
    silent = [
        name
        for name in mmformat.__all__
        if not name.startswith("__") and not (getattr(mmformat, name).__doc__ or "").strip()
    ]
    assert not silent, f"without a docstring: {silent}"


def test_the_version_is_the_distributions() -> None:
    pyproject = (ROOT / "pyproject.toml").read_text("utf-8")
    assert f'\nversion = "{mmformat.__version__}"\n' in pyproject
