"""README's numbers and docs/benchmarks.md are what the committed results say, and nothing else."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from benchmarks.report import read_result, write_readme, write_report
from benchmarks.report.readme import BEGIN, END, first_screen
from mmformat.errors import MMFormatError

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks/results"
PATHS = [*sorted(RESULTS.glob("*.json")), *sorted((RESULTS / "placement").glob("*.json"))]
HOW = "make it again:  benchmarks/run.sh NAME report"


def _shown(path: Path) -> str:
    return path.read_text("utf-8").partition(BEGIN)[2].partition(END)[0]


def test_readme_is_what_the_results_say() -> None:
    told = first_screen([read_result(path) for path in PATHS])
    assert _shown(ROOT / "README.md") == f"\n{told}", HOW


def test_readme_says_what_is_lost_and_how_it_was_made() -> None:
    shown = _shown(ROOT / "README.md")
    numbers = [line for line in shown.splitlines() if line.startswith("* **")]
    assert len(numbers) == 5
    assert "shm tensor arena" in shown
    assert "at 0.6 MB" in numbers[-1]
    assert "benchmarks/run.sh" in shown
    assert "mmformat bench" in shown


def test_the_picture_is_small() -> None:
    nbytes = (ROOT / "docs/benchmarks/first-screen.png").stat().st_size
    assert 5_000 < nbytes < 100_000


def test_the_report_is_what_the_results_say() -> None:
    made = write_report(PATHS).splitlines()
    page = (ROOT / "docs/benchmarks.md").read_text("utf-8")
    committed = [line for line in page.splitlines() if not line.startswith("![")]
    # A picture and the empty line after it are in the page alone.
    assert [line for line in committed if line] == [line for line in made if line], HOW
    for line in page.splitlines():
        if line.startswith("!["):
            assert (ROOT / "docs" / line.rpartition("(")[2].rstrip(")")).exists()


def test_other_numbers_make_another_readme(tmp_path: Path) -> None:
    fanout = next(path for path in PATHS if read_result(path)["scenario"] == "fanout")
    shutil.copy(ROOT / "README.md", tmp_path / "README.md")
    write_readme(tmp_path / "README.md", PATHS)
    assert _shown(tmp_path / "README.md") == _shown(ROOT / "README.md")
    slower = tmp_path / "fanout-slower.json"
    text = fanout.read_text("utf-8").replace('"time_utc": "2', '"time_utc": "9')
    slower.write_text(text.replace('"median": ', '"median": 9'), "utf-8")
    write_readme(tmp_path / "README.md", [*PATHS, slower])
    assert _shown(tmp_path / "README.md") != _shown(ROOT / "README.md")


def test_a_file_without_markers_is_refused(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("# nothing\n")
    with pytest.raises(MMFormatError, match="numbers"):
        write_readme(tmp_path / "README.md", PATHS)
