"""The room keeps its promises about itself: no pickle, no torch, nothing but its own functions."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from mmformat.legacy import ALLOWED
from mmformat.legacy.constructors import resolve

ROOT = Path(__file__).parents[3]
ROOM = ROOT / "mmformat" / "legacy"
FORBIDDEN = {"pickle", "_pickle", "pickletools", "marshal", "importlib.import_module", "copyreg"}


def test_no_module_imports_pickle() -> None:
    """Old pickles are read without Python's own unpickler."""
    for path in ROOM.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            assert not FORBIDDEN & set(names), path.name


def test_nothing_evaluates_text() -> None:
    for path in ROOM.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in ("eval", "exec", "compile", "__import__"), path.name


def test_every_allowed_name_has_a_meaning() -> None:
    for module, name in ALLOWED:
        found = resolve(module, name)
        assert found is not None
        assert found.path == f"{module}.{name}"


def test_converting_imports_no_engine_and_no_torch() -> None:
    """Neither sglang nor vllm nor torch nor msgspec nor Pillow is needed."""
    pytest.importorskip("ml_dtypes")
    script = f"""
import sys
for name in ("torch", "sglang", "vllm", "msgspec", "PIL", "transformers"):
    sys.modules[name] = None  # an import of it is an ImportError
sys.path.insert(0, {str(ROOT)!r})
from mmformat.legacy import convert
made = convert({str(ROOT / "tests/data/legacy/v0_5_23/torch_dtypes.p4.pkl")!r},
               isolated=False, library="numpy")
print(made.items[0].feature.dtype, made.items[0].model_specific_data["t_bfloat16"].dtype)
"""
    ran = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd="/"
    )
    assert ran.stdout.split() == ["float16", "bfloat16"], ran.stderr
