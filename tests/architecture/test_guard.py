"""The guards of conftest.py can fail: a leak is blamed on its test, and on no other."""

from __future__ import annotations

import shutil
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from tests.architecture.tree import ROOT

ENDING = f"guard_{uuid.uuid4().hex}"  # not a name that an arena's sweep would remove
# With the number of the process that leaks it, so that no other run on this machine removes it.
NAME = f"mmf-{{os.getuid()}}-{{os.getpid()}}-1-{ENDING}"

LEAKS = f"""
import os
from pathlib import Path
def test_leaves_a_segment():
    Path(f"/dev/shm/{NAME}").write_bytes(b"x")
def test_comes_after_it():
    assert not Path(f"/dev/shm/{NAME}").exists()
"""

LEAKS_OUTSIDE_A_TEST = f'''
"""A module.

>>> import os
>>> from pathlib import Path
>>> Path(f"/dev/shm/{NAME}").write_bytes(b"x")
1
"""
'''

ANOTHER_RUN = """
import subprocess, sys, time
from pathlib import Path
CODE = '''
import os, pathlib, sys, time
path = pathlib.Path(f"/dev/shm/mmf-{os.getuid()}-{os.getpid()}-1-guard")
path.write_bytes(b"x")
print(path, flush=True)
time.sleep(6)
path.unlink()
'''
def test_while_another_run_holds_a_segment():
    # Started by a shell that ends at once, so that it descends from us no longer.
    shell = 'exec setsid "$0" -c "$1" &'
    child = subprocess.Popen(["sh", "-c", shell, sys.executable, CODE], stdout=subprocess.PIPE)
    child.wait()
    assert Path(child.stdout.readline().decode().strip()).exists()
    child.stdout.close()
"""

WARNS = """
import warnings
def test_warns():
    warnings.warn("old", DeprecationWarning)
"""

HANGS = """
import time
import pytest
@pytest.mark.timeout(1)
def test_hangs():
    time.sleep(60)
"""


def _run(folder: Path, files: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run pytest over a small tree that has this project's settings and its conftest."""
    shutil.copy(ROOT / "pyproject.toml", folder)
    (folder / "tests").mkdir()
    shutil.copy(ROOT / "tests" / "conftest.py", folder / "tests")
    (folder / "mmformat").mkdir()
    (folder / "mmformat" / "__init__.py").write_text('"""Empty."""\n')
    for name, text in files.items():
        (folder / name).write_text(text)
    try:
        return subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
    finally:
        for left in Path("/dev/shm").glob(f"mmf-*-{ENDING}"):
            left.unlink(missing_ok=True)


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("tests/test_leaks.py", LEAKS, "left in /dev/shm: mmf-"),
        ("mmformat/module.py", LEAKS_OUTSIDE_A_TEST, "left in /dev/shm by this run: mmf-"),
        ("tests/test_warns.py", WARNS, "DeprecationWarning: old"),
        ("tests/test_hangs.py", HANGS, "Timeout (>1.0s)"),
    ],
    ids=["a-test-leaks", "a-doctest-leaks", "a-warning", "a-hang"],
)
def test_a_breach_fails_the_run(tmp_path: Path, name: str, text: str, says: str) -> None:
    result = _run(tmp_path, {name: text})
    assert result.returncode not in {0, 5}, result.stdout + result.stderr
    assert says in result.stdout + result.stderr
    assert (ENDING in result.stdout + result.stderr) == ("leaks" in text or "/dev/shm" in text)


def test_the_test_after_a_leak_is_not_blamed(tmp_path: Path) -> None:
    result = _run(tmp_path, {"tests/test_leaks.py": LEAKS})
    assert "2 passed, 1 error" in result.stdout


def test_another_runs_segment_is_not_a_leak(tmp_path: Path) -> None:
    result = _run(tmp_path, {"tests/test_another.py": ANOTHER_RUN})
    assert result.returncode == 0, result.stdout + result.stderr
    assert "1 passed" in result.stdout
