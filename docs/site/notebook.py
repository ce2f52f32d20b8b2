"""Write examples/tutorial.ipynb from docs/tutorial.md: text as text, Python blocks as cells."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[2]
SOURCE: Final = ROOT / "docs" / "tutorial.md"
TARGET: Final = ROOT / "examples" / "tutorial.ipynb"
SITE: Final = "https://mmformat.github.io/mmformat"


def notebook(text: str) -> str:
    """Return the notebook as JSON; the same text gives the same bytes."""
    cells: list[dict[str, Any]] = []
    for number, part in enumerate(re.split(r"^```python\n(.*?)^```\n", text, flags=re.M | re.S)):
        lines = re.sub(r"\]\(([\w-]+)\.md\)", rf"]({SITE}/\1/)", part).strip().splitlines(True)
        if not lines:
            continue
        cell: dict[str, Any] = {"id": f"cell-{len(cells)}", "metadata": {}, "source": lines}
        if number % 2:
            cell |= {"cell_type": "code", "execution_count": None, "outputs": []}
        else:
            cell |= {"cell_type": "markdown"}
        cells.append(cell)
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    book = {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(book, indent=1, sort_keys=True) + "\n"


def main() -> int:
    """Write the notebook, or with --check say whether it is up to date."""
    made = notebook(SOURCE.read_text("utf-8"))
    if "--check" in sys.argv[1:]:
        return 0 if TARGET.read_text("utf-8") == made else 1
    TARGET.write_text(made, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
