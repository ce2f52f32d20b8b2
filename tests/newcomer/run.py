"""Do what README says, as a newcomer: a fresh environment, the built wheel, another folder.

    python tests/newcomer/run.py [--wheel FILE]

Every command and every Python block of README runs in order beside one photograph; `make` is for
checkouts and is left to CI. Then a base installation is asked for what it lacks: each answer must
name the extra, before any work.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DISTRIBUTION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["name"]
FENCE = re.compile(r"^```(console|python)\n(.*?)^```", re.MULTILINE | re.DOTALL)
PROMPT = re.compile(r"^\$ (.+?)(?:\s+#.*)?$", re.MULTILINE)
LACKING = (
    (["mmformat", "demo"], "demo"),
    (["mmformat", "bench"], "bench"),
    (["mmformat", "encode", "photo.jpg", "-o", "x.arrows"], "media"),
)
ANSWER_S = 20.0
"""A refusal needs an interpreter's start and nothing more; work would take longer."""


class Environment:
    """A fresh virtual environment with a folder to work in, both outside the checkout."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder / name
        self.work = folder / f"{name}-work"
        self.work.mkdir()
        subprocess.run([sys.executable, "-m", "venv", self.folder], check=True)
        shutil.copy(ROOT / "tests/data/photos/china-640x427.jpg", self.work / "photo.jpg")

    def run(
        self, command: list[str] | str, *, timeout_s: float
    ) -> subprocess.CompletedProcess[str]:
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        environment["PATH"] = f"{self.folder / 'bin'}{os.pathsep}{environment['PATH']}"
        return subprocess.run(
            command,
            shell=isinstance(command, str),
            cwd=self.work,
            env=environment,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def must(self, command: list[str] | str, *, timeout_s: float = 900) -> str:
        started_s = time.monotonic()
        result = self.run(command, timeout_s=timeout_s)
        shown = command if isinstance(command, str) else " ".join(command)
        print(f"{time.monotonic() - started_s:6.1f} s  {shown.splitlines()[0]}", flush=True)
        if result.returncode:
            raise SystemExit(f"failed: {shown}\n{result.stdout}{result.stderr}")
        return result.stdout


def _wheel(folder: Path) -> Path:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    return next(folder.glob("*.whl"))


def follow_readme(folder: Path, wheel: Path) -> None:
    """Run README's commands and blocks in order."""
    place = Environment(folder, "readme")
    constraints = ["-c", str(ROOT / "constraints.txt")]
    torch = re.search(r"^torch==\S+", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    index = os.environ.get("TORCH_INDEX")
    pip = ["pip", "--disable-pip-version-check", "-q", "install"]
    place.must([*pip, torch[0], *(["--index-url", index] if index else [])])
    installs = commands = blocks = 0
    for kind, text in FENCE.findall((ROOT / "README.md").read_text("utf-8")):
        if kind == "python":
            place.must(["python", "-W", "error", "-c", text])
            blocks += 1
            continue
        for command in PROMPT.findall(text):
            if command.startswith("make "):
                continue
            if command.startswith("pip install"):
                words = command.replace("'", "").split()[2:]
                place.must([*pip, *constraints, "--find-links", str(wheel.parent), *words])
                installs += 1
            else:
                place.must(command)
                commands += 1
    if not (installs and commands and blocks):
        raise SystemExit(f"README has {installs} installs, {commands} commands, {blocks} blocks")


def ask_a_base_installation(folder: Path, wheel: Path) -> None:
    """What is missing is named with the command that brings it, before any work."""
    place = Environment(folder, "base")
    constraints = ["-c", str(ROOT / "constraints.txt")]
    place.must(["pip", "--disable-pip-version-check", "-q", "install", *constraints, str(wheel)])
    place.must(["mmformat", "--version"])
    for command, extra in LACKING:
        started_s = time.monotonic()
        result = place.run(command, timeout_s=100)
        took_s = time.monotonic() - started_s
        hint = f"pip install '{DISTRIBUTION}[{extra}]'"
        print(f"{took_s:6.1f} s  {' '.join(command)}: {result.stderr.strip().splitlines()[-1]}")
        if result.returncode != 3 or hint not in result.stderr or took_s > ANSWER_S:
            raise SystemExit(
                f"expected status 3 and {hint}, got {result.returncode}:\n{result.stderr}"
            )
        left = sorted(path.name for path in place.work.iterdir())
        if left != ["photo.jpg"]:
            raise SystemExit(f"{command} left {left}")


def main() -> None:
    """Build a wheel unless one is given, and follow README with it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--wheel", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="newcomer-") as name:
        folder = Path(name)
        wheel = (arguments.wheel or _wheel(folder)).resolve()
        ask_a_base_installation(folder, wheel)
        follow_readme(folder, wheel)
    print("README holds.")


if __name__ == "__main__":
    main()
