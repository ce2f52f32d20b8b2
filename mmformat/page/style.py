"""How the page looks: one sheet, two colour schemes, no fonts and nothing else from elsewhere."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

__all__ = ["style"]


@cache
def style() -> str:
    """Return the style sheet, which lies beside this module.

    >>> "url(" in style()
    False
    """
    return (files("mmformat.page") / "style.css").read_text("utf-8")
