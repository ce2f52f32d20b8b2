"""examples/two-hosts, on one host: a shell script, an encoder and two ranks."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "two-hosts"


@pytest.mark.skipif(shutil.which("openssl") is None, reason="there is no openssl")
def test_two_hosts(tmp_path: Path) -> None:
    make = ["sh", str(EXAMPLE / "make-certificates.sh"), str(tmp_path)]
    subprocess.run(make, check=True, timeout=30)
    hand = ["--certificates", str(tmp_path), "--hand", str(tmp_path / "remote")]
    encoder = subprocess.Popen(
        [sys.executable, str(EXAMPLE / "encoder.py"), *hand], stdout=subprocess.PIPE, text=True
    )
    ranks = subprocess.run(
        [sys.executable, str(EXAMPLE / "ranks.py"), *hand],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    said, _ = encoder.communicate(timeout=30)
    assert encoder.returncode == 0
    left, came = said.split("fetched: ")[1].split()[0], ranks.stdout.splitlines()[-1].split()[0]
    assert left == came
    sums = {line.partition(": ")[2] for line in ranks.stdout.splitlines() if line[:5] == "rank "}
    assert len(sums) == 1
