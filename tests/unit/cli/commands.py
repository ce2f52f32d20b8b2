"""Run the command line as a user does, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

COMMAND = [sys.executable, "-W", "error", "-m", "mmformat"]


def run(
    *arguments: object, timeout_s: float = 100, cwd: Path | None = None, code: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run ``mmformat`` with arguments, or Python code that calls its ``main``."""
    command: Sequence[str] = COMMAND if code is None else [sys.executable, "-c", code]
    return subprocess.run(
        [*command, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3]), "COLUMNS": "200"},
        check=False,
    )
