"""An optional dependency is imported, or the extra that brings it is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mmformat import MissingExtraError
from mmformat._extras import require


def test_an_installed_module_comes_back() -> None:
    assert require("json", extra="cli") is json
    assert require("os.path", extra="cli").__name__ in {"posixpath", "os.path"}


def test_a_missing_one_names_its_extra() -> None:
    with pytest.raises(MissingExtraError) as caught:
        require("mmformat_no_such_module.deep", extra="media")
    assert caught.value.code == "missing-extra"
    assert caught.value.hint == "pip install 'mmformat-arrow[media]'"
    assert isinstance(caught.value, ImportError)
    # What to install is the package: "rich", not "rich.box".
    assert str(caught.value) == "the module 'mmformat_no_such_module' is not installed"


def test_a_broken_install_is_not_a_missing_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_dependency.py").write_text("import mmformat_no_such_module\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError) as caught:
        require("broken_dependency", extra="media")
    assert not isinstance(caught.value, MissingExtraError)
