"""A subinterpreter is refused by name, in every Python that can be found, before numpy is asked."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PYTHONS = ("this one", "python3.11", "python3.12", "python3.13", "python3.14")
SCRIPT = """
import sys
sys.path.insert(0, {root!r})
try:
    import _interpreters as interpreters
    kinds, run = [("isolated",), ("legacy",)], interpreters.exec
except ImportError:
    import _xxsubinterpreters as interpreters
    kinds, run = [(), ()], interpreters.run_string
code = '''
import sys
sys.path.insert(0, {root!r})
try:
    import mmformat
except ImportError as error:
    print(error.code, "numpy" in sys.modules, "threads or processes" in error.hint)
'''
for kind in kinds:
    made = interpreters.create(*kind)
    run(made, code)
    interpreters.destroy(made)
from mmformat._interpreter import is_main_interpreter
print("main")
"""


def _found(name: str) -> str:
    if name == "this one":
        return sys.executable
    # pyenv keeps them apart from the path; elsewhere they are on it.
    kept = sorted(Path.home().glob(f".pyenv/versions/{name.removeprefix('python')}.*/bin/python"))
    path = str(kept[-1]) if kept else shutil.which(name)
    if path is None or subprocess.run([path, "-c", ""], check=False).returncode:
        pytest.skip(f"needs {name} on this machine")
    return path


@pytest.mark.parametrize("name", PYTHONS)
def test_a_subinterpreter_is_refused_by_name(name: str) -> None:
    script = SCRIPT.format(root=str(ROOT))
    if name != "this one":  # it has no numpy, and needs none to refuse
        script = script.replace("from mmformat._interpreter import is_main_interpreter\n", "")
    ran = subprocess.run(
        [_found(name), "-c", script], capture_output=True, text=True, check=False, timeout=60
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines() == ["subinterpreter False True"] * 2 + ["main"]
