"""Read the package as text: its modules, their captions, and the table made from them."""

from __future__ import annotations

import ast
import functools
import re
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "mmformat"
ARCHITECTURE = ROOT / "docs" / "ARCHITECTURE.md"
BEGIN = "<!-- rooms: written by `make rooms`, held to the tree by a test -->"
END = "<!-- end of rooms -->"


@dataclass(frozen=True, kw_only=True)
class Module:
    """One module of the package."""

    path: Path
    source: str

    @property
    def where(self) -> str:
        """Return the path from the repository's root, as a person names it."""
        return self.path.relative_to(ROOT).as_posix()

    @property
    def room(self) -> str:
        """Return the top folder or module below the package."""
        return self.path.relative_to(PACKAGE).parts[0].removesuffix(".py")

    @functools.cached_property
    def tree(self) -> ast.Module:
        """Return the syntax tree."""
        return ast.parse(self.source, filename=self.where)

    @property
    def caption(self) -> str | None:
        """Return the first sentence of the docstring, on one line; None without a docstring."""
        text = ast.get_docstring(self.tree)
        if not text:
            return None
        first = " ".join(text.partition("\n\n")[0].split())
        sentence = re.match(r".*?\.(?=\s|$)", first)
        return sentence.group() if sentence else first


def modules() -> list[Module]:
    """Return every module of the package, in the order of a listing."""
    paths = sorted(PACKAGE.rglob("*.py"), key=lambda p: (p.parent != PACKAGE, p.as_posix()))
    found = [Module(path=path, source=path.read_text("utf-8")) for path in paths]
    if len(found) < 5:
        raise RuntimeError(f"expected the package at {PACKAGE}, got {len(found)} modules")
    return found


def expected_table() -> str:
    """Return the room table that docs/ARCHITECTURE.md must hold."""
    lines = ["| module | what it is |", "|---|---|"]
    for module in modules():
        name = module.where.removeprefix("mmformat/")
        if name.endswith("/__init__.py"):
            name = f"**`{name.removesuffix('__init__.py')}`**"
        else:
            name = f"`{name}`"
        lines.append(f"| {name} | {module.caption or '(no caption)'} |")
    return "\n".join(lines)


def written_table() -> str:
    """Return the room table that docs/ARCHITECTURE.md holds."""
    return ARCHITECTURE.read_text("utf-8").partition(BEGIN)[2].partition(END)[0].strip()


def write_table() -> None:
    """Put the expected table into docs/ARCHITECTURE.md."""
    text = ARCHITECTURE.read_text("utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise RuntimeError(f"expected {BEGIN!r} and {END!r} in {ARCHITECTURE}")
    ARCHITECTURE.write_text(f"{before}{begin}\n{expected_table()}\n{end}{after}", "utf-8")


if __name__ == "__main__":
    if "--write" in sys.argv[1:]:
        write_table()
    else:
        print(expected_table())
