"""docs/ARCHITECTURE.md lists every module with its own caption, and nothing else."""

from __future__ import annotations

import difflib

from tests.architecture.tree import ARCHITECTURE, expected_table, modules, written_table


def test_the_table_is_the_tree() -> None:
    written, expected = written_table(), expected_table()
    assert written, f"no room table in {ARCHITECTURE}"
    difference = "\n".join(
        difflib.unified_diff(
            written.splitlines(), expected.splitlines(), "ARCHITECTURE.md", "the tree", lineterm=""
        )
    )
    assert not difference, f"run `make rooms` and commit the result:\n{difference}"


def test_every_room_is_told_in_words() -> None:
    """A room that has a floor but no sentence in the document is not yet explained."""
    text = ARCHITECTURE.read_text("utf-8")
    rooms = {module.room for module in modules()} - {"__init__", "__main__"}
    missing = sorted(
        room for room in rooms if f"`{room}/`" not in text and f"`{room}.py`" not in text
    )
    assert not missing, f"docs/ARCHITECTURE.md does not speak of {missing}"
