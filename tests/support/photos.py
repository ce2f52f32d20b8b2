"""Every photograph of the repository: the demo's, the benchmarks' and the tests' own."""

from __future__ import annotations

from pathlib import Path
from typing import Final

__all__ = ["FOLDERS", "PHOTOS"]

_ROOT: Final = Path(__file__).parents[2]
FOLDERS: Final = tuple(
    _ROOT / folder for folder in ("mmformat/demo/photos", "benchmarks/photos", "tests/data/photos")
)
PHOTOS: Final = {
    path.name: path
    for folder in FOLDERS
    for path in sorted(folder.iterdir())
    if path.suffix in {".jpg", ".png"}
}
"""By file name."""
