"""Every video and sound has a source and a licence, by name and digest; together they are small."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

DATA = Path(__file__).parents[2] / "data"
MEDIA = {".mp4", ".webm", ".avi", ".ogg", ".flac", ".wav", ".mp3"}


@pytest.mark.parametrize("folder", ["video", "audio"])
def test_the_table_holds_every_file(folder: str) -> None:
    text = (DATA / folder / "PROVENANCE.md").read_text("utf-8")
    told = dict(
        re.findall(r"^\| `([\w.-]+)` \|.*\| `([0-9a-f]{64})` \|$", text, flags=re.MULTILINE)
    )
    found = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in (DATA / folder).iterdir()
        if path.suffix in MEDIA
    }
    assert found
    assert told == found
    assert "CC0 1.0" in text


def test_the_broken_files_are_told_of() -> None:
    text = (DATA / "bad" / "PROVENANCE.md").read_text("utf-8")
    assert "make_bad.py" in text
    made = (DATA / "bad" / "make_bad.py").read_text("utf-8")
    for path in (DATA / "bad").iterdir():
        if path.suffix not in {".py", ".md"}:
            assert path.name in made, path.name


def test_they_are_small_together() -> None:
    folders = ("video", "audio", "bad")
    nbytes = sum(path.stat().st_size for each in folders for path in (DATA / each).iterdir())
    assert 0 < nbytes <= 1_500_000
