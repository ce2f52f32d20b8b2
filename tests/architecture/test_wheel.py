"""The wheel holds the package, its photographs and the golden vectors, and nothing beside them."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

from tests.architecture.tree import PACKAGE, ROOT


def test_the_wheel_is_the_package(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT,
        check=True,
        capture_output=True,
        timeout=100,
    )
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata = archive.read(next(n for n in names if n.endswith("/METADATA"))).decode()
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"mmformat"}
    shipped = {name for name in names if name.startswith("mmformat/")}
    wanted = {
        path.relative_to(ROOT).as_posix()
        for path in PACKAGE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    vectors = ROOT / "schemas" / "v1" / "vectors"
    wanted |= {
        f"mmformat/testing/vectors_v1/{path.relative_to(vectors).as_posix()}"
        for path in vectors.rglob("*")
        if path.is_file()
    }
    assert shipped == wanted
    assert "mmformat/py.typed" in shipped
    assert any(name.endswith("licenses/LICENSE") for name in names)
    always = {
        line.split(":", 1)[1].split(">")[0].strip()
        for line in metadata.splitlines()
        if line.startswith("Requires-Dist:") and "extra ==" not in line
    }
    assert always == {"blake3", "numpy", "pyarrow"}
