"""Every python block of the documents runs, or says why not; links and `make` targets exist."""

from __future__ import annotations

import re
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from mmformat.cli.front import _parser
from mmformat.cli.options import UsageError
from tests.architecture.tree import ROOT

DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
GUIDES = [*DOCUMENTS, ROOT / "benchmarks" / "README.md"]
# Not the adapters' log lines, which begin "mmformat is on" or "mmformat is off".
COMMAND = re.compile(r"^(?:\$ )?mmformat (?!is )([a-z]+ [^`#|>\n]+)$", re.MULTILINE)
NOT_RUN = re.compile(r"<!-- not run: \S.{5,} -->")


@dataclass(frozen=True, kw_only=True)
class Block:
    """One fenced block of python."""

    line: int  # of its first statement, so that a traceback points into the document
    code: str
    excused: bool


def _blocks(document: Path) -> list[Block]:
    found = []
    lines = document.read_text("utf-8").splitlines()
    start: int | None = None
    for number, line in enumerate(lines):
        if start is None and line.strip() == "```python":
            start = number + 1
        elif start is not None and line.strip() == "```":
            before = next((text for text in reversed(lines[: start - 1]) if text.strip()), "")
            found.append(
                Block(
                    line=start + 1,
                    code="\n".join(lines[start:number]),
                    excused=NOT_RUN.fullmatch(before.strip()) is not None,
                )
            )
            start = None
    return found


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_the_python_blocks_run(
    document: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, photos: dict[str, Path]
) -> None:
    """A document's blocks run in order in one namespace, beside photographs and a pickle."""
    shutil.copy(photos["rocket-640x427.jpg"], tmp_path / "photo.jpg")
    shutil.copy(photos["astronaut-face-224.png"], tmp_path / "photo.png")
    old = ROOT / "tests" / "data" / "legacy" / "v0_5_23" / "dict_minimal.p4.pkl"
    shutil.copy(old, tmp_path / "request.pkl")
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "__document__"}
    for block in _blocks(document):
        if not block.excused:
            code = "\n" * (block.line - 1) + block.code
            exec(compile(code, str(document), "exec"), namespace)


def test_readme_has_code_that_runs() -> None:
    running = [block for block in _blocks(ROOT / "README.md") if not block.excused]
    assert running
    statements = [line for line in running[0].code.splitlines() if line.strip()]
    assert len(statements) <= 15, "the first sample is the promise: fifteen lines"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_the_make_targets_exist(document: Path) -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    targets = set(re.findall(r"^([a-z]+):", makefile, flags=re.MULTILINE))
    assert {"demo", "test"} <= targets
    named = set(re.findall(r"\bmake ([a-z]+)[`\n ]", _commands(document)))
    assert not named - targets, f"no such target: {sorted(named - targets)}"


def test_the_commands_exist() -> None:
    """Each `mmformat COMMAND ...` of a guide is one that the command line takes; none is run."""
    found = []
    for guide in GUIDES:
        text = re.sub(r"[ \t]+#.*|`$", "", _commands(guide), flags=re.MULTILINE)
        for command in COMMAND.findall(text):
            found.append(command)
            try:
                _parser().parse_args(shlex.split(command))
            except UsageError as error:
                # A sentence may name a command, or an option of it, without what it works on.
                assert "are required" in str(error), f"{guide.name}: {command}: {error}"
    assert len(found) > 15, found


@pytest.mark.parametrize("document", GUIDES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_the_modules_that_are_run_exist(document: Path) -> None:
    modules = re.findall(r"python -m ((?:benchmarks|tests|mmformat)[a-z_.]*)", _commands(document))
    places = [ROOT.joinpath(*module.split(".")) for module in modules]
    missing = [
        place.relative_to(ROOT).as_posix()
        for place in places
        if not (place.with_suffix(".py").exists() or (place / "__main__.py").exists())
    ]
    assert not missing, f"no such module: {missing}"


def _commands(document: Path) -> str:
    """Return the inline code and the fenced blocks of a document; prose may say 'make room'."""
    text = document.read_text("utf-8")
    fenced = re.findall(r"^```\w*\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    inline = [f"{code}`" for code in re.findall(r"`([^`\n]+)`", text)]
    return "\n".join([*fenced, *inline])


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_the_links_lead_somewhere(document: Path) -> None:
    text = document.read_text("utf-8")
    targets = re.findall(r"\]\((?!https?:|#)([^)#]+)", text)
    missing = [target for target in targets if not (document.parent / target).exists()]
    # PyPI and the site show README elsewhere, so its links to the repository are absolute.
    ours = re.findall(r"https://github\.com/mmformat/mmformat/(?:blob|tree)/main/([^)#\s]+)", text)
    missing += [target for target in ours if not (ROOT / target).exists()]
    pages = re.findall(r"https://mmformat\.github\.io/mmformat/([\w-]+)/", text)
    missing += [page for page in pages if not (ROOT / "docs" / f"{page}.md").exists()]
    assert not missing, f"no such file: {missing}"


def test_readme_renders_elsewhere_and_is_short() -> None:
    """PyPI resolves no relative link, and a first page has at most 700 words."""
    text = (ROOT / "README.md").read_text("utf-8")
    assert not re.findall(r"\]\((?!https?:|#)([^)]+)\)", text)
    assert len(text.split()) <= 700
