"""A room imports only from floors below its own, and the contracts would notice if one did not."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.architecture.tree import PACKAGE, ROOT


def _lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    """Run import-linter over the package in ``folder``, not over what is installed."""
    code = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    return subprocess.run(
        [sys.executable, "-c", code, "--no-cache", "--no-logo"],
        cwd=folder,
        env={"PYTHONPATH": str(folder), "PATH": "/usr/bin:/bin", "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Return a copy of the package that a test may spoil."""
    shutil.copytree(
        PACKAGE,
        tmp_path / "mmformat",
        ignore=shutil.ignore_patterns("__pycache__", "*.jpg", "*.png"),
    )
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_the_contracts_are_kept() -> None:
    result = _lint_imports(ROOT)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "2 kept, 0 broken" in result.stdout


def test_a_new_room_must_be_given_a_floor(copy: Path) -> None:
    (copy / "mmformat" / "attic.py").write_text('"""A room without a floor."""\n')
    result = _lint_imports(copy)
    assert result.returncode == 1, result.stdout + result.stderr
    assert "mmformat.attic" in result.stdout


@pytest.mark.parametrize(
    ("module", "line", "says"),
    [
        ("errors.py", "from mmformat import model", "mmformat.errors -> mmformat.model"),
        ("model/item.py", "from mmformat import codec", "mmformat.model.item -> mmformat.codec"),
        ("shm/new.py", "import mmformat.media", "mmformat.shm.new -> mmformat.media"),
        ("_extras.py", "import mmformat._arrow", "mmformat._extras -> mmformat._arrow"),
        ("model/item.py", "import pickle", "mmformat.model.item -> pickle"),
    ],
    ids=["upwards", "upwards-by-two", "sibling", "sibling-module", "pickle"],
)
def test_a_forbidden_import_is_noticed(copy: Path, module: str, line: str, says: str) -> None:
    path = copy / "mmformat" / module
    for room in ("shm", "media"):  # the copy has both, whatever is built yet
        init = copy / "mmformat" / room / "__init__.py"
        init.parent.mkdir(exist_ok=True)
        if not init.exists():
            init.write_text(f'"""The {room} room."""\n')
    text = path.read_text() if path.exists() else '"""A new module."""\n'
    path.write_text(f"{text}\n{line}\n")
    result = _lint_imports(copy)
    assert result.returncode == 1, result.stdout + result.stderr
    assert says in result.stdout
