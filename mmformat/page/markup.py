"""The one place where text becomes markup: whatever is not markup already is escaped here."""

from __future__ import annotations

import html
import re
from typing import Final

from mmformat.model.shown import printable

__all__ = ["TIMES", "Markup", "Part", "join", "tag"]

TIMES: Final = "\N{MULTIPLICATION SIGN}"

_NAME: Final = re.compile(r"[a-z][a-zA-Z0-9-]*")
_EMPTY: Final = frozenset({"img", "meta"})
_LINKS: Final = frozenset({"href", "src"})
_SAFE_LINKS: Final = ("#", "data:image/png;base64,")


class Markup(str):
    """Text that is markup already; only this module's functions make it of other people's text."""

    __slots__ = ()


Part = str | int | None
"""A child of an element: Markup goes in as it is, any other text is escaped, None is nothing."""


def join(*parts: Part) -> Markup:
    """Return the parts behind each other, escaped where they are not markup.

    >>> join("<b>", tag("b", "<i>"))
    '&lt;b&gt;<b>&lt;i&gt;</b>'
    """
    return Markup("".join(_escaped(part) for part in parts))


def tag(name: str, /, *children: Part, **attributes: str | float | bool | None) -> Markup:
    """Return an element; names come from this package's code, values from anywhere.

    Parameters
    ----------
    name : str
        The element's name.
    *children : str, Markup, int or None
        What stands in it.
    **attributes : str, number, bool or None
        ``class_`` is ``class``, ``aria_label`` is ``aria-label``; True is an attribute without a
        value, None and False leave it out.

    Raises
    ------
    ValueError
        For a name that is none, or a link that leads anywhere but into the page.

    Examples
    --------
    >>> tag("img", src="data:image/png;base64,AA==", alt='"><script>')
    '<img src="data:image/png;base64,AA==" alt="&quot;&gt;&lt;script&gt;">'
    """
    written = [f"<{_checked(name)}"]
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        attribute = _checked(key.rstrip("_").replace("_", "-"))
        if attribute.lower().startswith("on") or attribute == "style":
            raise ValueError(f"expected no handlers and styles, got {attribute}")
        text = "" if value is True else str(value)
        if attribute in _LINKS and not text.startswith(_SAFE_LINKS):
            raise ValueError(f"expected a link into the page, got {text[:40]!r}")
        written.append(f" {attribute}" if value is True else f' {attribute}="{_escaped(text)}"')
    written.append(">")
    if name not in _EMPTY:
        written += [*map(_escaped, children), f"</{name}>"]
    return Markup("".join(written))


def _checked(name: str) -> str:
    if _NAME.fullmatch(name) is None:
        raise ValueError(f"expected a name of markup, got {name!r}")
    return name


def _escaped(part: Part) -> str:
    if part is None:
        return ""
    return part if isinstance(part, Markup) else html.escape(printable(str(part)), quote=True)
