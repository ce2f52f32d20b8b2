"""Every photograph has a source, an author and a licence, and the tables name every file."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

from tests.architecture.tree import PACKAGE, ROOT

FOLDERS = {
    PACKAGE / "demo" / "photos": 2**18,  # bytes at most: it ships in the wheel
    ROOT / "benchmarks" / "photos": 2**20,
    ROOT / "tests" / "data" / "photos": 1_500_000,
}
LICENCES = {"public domain", "CC0 1.0", "CC BY 2.0"}


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_provenance_is_complete(folder: Path) -> None:
    rows = {}
    for line in (folder / "PROVENANCE.md").read_text("utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if match := re.fullmatch(r"`([\w.-]+\.(?:jpg|png))`", cells[0]):
            rows[match.group(1)] = cells
    files = {path.name for path in folder.iterdir()} - {"PROVENANCE.md"}
    assert files == set(rows)
    for name, (_, size, source, author, licence, done, digest) in rows.items():
        assert size and source and author and done, name
        assert licence in LICENCES, name
        assert digest.strip("`") == hashlib.sha256((folder / name).read_bytes()).hexdigest(), name


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_they_are_small_together(folder: Path) -> None:
    nbytes = sum(path.stat().st_size for path in folder.iterdir())
    assert 0 < nbytes <= FOLDERS[folder]


def test_the_package_ships_no_attribution_duty() -> None:
    """Photographs that must be credited stay out of the wheel."""
    text = (PACKAGE / "demo" / "photos" / "PROVENANCE.md").read_text("utf-8")
    assert "CC BY" not in text


def test_the_odd_modes_are_there(photos: dict[str, Path]) -> None:
    """The cases that materializing must get right are real files, not assumptions."""
    from PIL import Image

    modes = {}
    for name, path in photos.items():
        with Image.open(path) as image:
            modes[name] = (image.format, image.mode, image.getexif().get(0x0112))
    assert modes["china-exif-rotated.jpg"] == ("JPEG", "RGB", 6)
    assert modes["coffee-cmyk.jpg"][:2] == ("JPEG", "CMYK")
    assert modes["coffee-palette.png"][:2] == ("PNG", "P")
    assert modes["flower-rgba.png"][:2] == ("PNG", "RGBA")
    assert modes["astronaut-gray16.png"][:2] == ("PNG", "I;16")
    assert modes["camera-512-gray.jpg"][:2] == ("JPEG", "L")
