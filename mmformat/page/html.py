"""Build HTML: escaped text, tags, tables and bars."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from mmformat.codec.describe import ItemDescription, TensorDescription
from mmformat.model.repr import megabytes, printable
from mmformat.page.bounds import PageBounds
from mmformat.page.values import StoredTensor

__all__ = [
    "TIMES",
    "Markup",
    "Part",
    "facts",
    "join",
    "ratio",
    "size_bar",
    "table",
    "tag",
    "tensor_table",
    "value_table",
]

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


def facts(pairs: Sequence[tuple[str, Part]]) -> Markup:
    """Return a list of names and what they are; what is None is left out."""
    rows = [join(tag("dt", name), tag("dd", what)) for name, what in pairs if what is not None]
    return tag("dl", *rows, class_="facts")


def table(
    columns: Sequence[str],
    rows: Sequence[Sequence[Part]],
    *,
    caption: str,
    numbers: Sequence[str] = (),
    classes: Mapping[str, str] | None = None,
    label: str | None = None,
) -> Markup:
    """Return a table that scrolls by itself where it is wider than the page.

    Parameters
    ----------
    columns : sequence of str
        Heads; the first column's cells are the rows' heads.
    rows : sequence of rows of text or markup
        In order.
    caption : str
        What the table is about.
    numbers : sequence of str
        The columns that are aligned to the right.
    classes : mapping, optional
        Classes of other columns.
    label : str, optional
        What a screen reader calls the part that scrolls; the caption when omitted.
    """
    named = {**(classes or {}), **dict.fromkeys(numbers, "number")}
    looks = [named.get(column) for column in columns]
    heads = [
        tag("th", column, scope="col", class_=look)
        for column, look in zip(columns, looks, strict=True)
    ]
    lines = [
        tag(
            "tr",
            tag("th", row[0], scope="row"),
            *(tag("td", cell, class_=look) for cell, look in zip(row[1:], looks[1:], strict=True)),
        )
        for row in rows
    ]
    return tag(
        "div",
        tag(
            "table",
            tag("caption", caption),
            tag("thead", tag("tr", *heads)),
            tag("tbody", *lines),
        ),
        class_="scroll",
        role="region",
        tabindex=0,  # so that the arrow keys scroll it
        aria_label=label or caption,
    )


def tensor_table(item: ItemDescription, bounds: PageBounds, *, label: str) -> Markup:
    """Return what each tensor of an item is and how it is stored."""
    rows = [
        [
            tag("code", tensor.name),
            tensor.dtype,
            f" {TIMES} ".join(map(str, tensor.shape)) or "scalar",
            tensor.encoding if tensor.codec is None else f"{tensor.encoding}, {tensor.codec}",
            megabytes(tensor.nbytes),
            megabytes(tensor.stored_nbytes),
            ratio(tensor.nbytes, tensor.stored_nbytes),
            _first_byte(tensor),
        ]
        for tensor in item.tensors[: bounds.rows]
    ]
    more = len(item.tensors) - len(rows)
    caption = "Each tensor as it decodes, and as it is stored"
    return table(
        ("tensor", "dtype", "shape", "encoding", "plain", "stored", "ratio", "at byte"),
        rows,
        caption=f"{caption}; {more:,} more are not shown" if more > 0 else caption,
        numbers=("plain", "stored", "ratio", "at byte"),
        classes=dict.fromkeys(("dtype", "shape", "encoding"), "short"),
        label=label,
    )


def _first_byte(tensor: TensorDescription) -> str:
    starts = [chunk.at for chunk in tensor.chunks if chunk.at is not None]
    return f"{starts[0]:,}" if starts else "inline" if tensor.chunks else "none"


def ratio(nbytes: int, stored_nbytes: int) -> str:
    """Return how many bytes one stored byte stands for.

    >>> ratio(8000, 1000), ratio(5, 5), ratio(0, 0)
    ('8.00', '1.00', '-')
    """
    return f"{nbytes / stored_nbytes:.2f}" if stored_nbytes else "-"


def size_bar(nbytes: int, stored_nbytes: int, *, most: int) -> Markup:
    """Return a bar of what is stored, before a bar of what it stands for."""
    scale = 100 / max(most, nbytes, stored_nbytes, 1)
    plain, stored = nbytes * scale, stored_nbytes * scale
    return tag(
        "svg",
        tag("rect", x=0, y=0, width=f"{max(plain, 0.4):.2f}", height=10, class_="plain"),
        tag("rect", x=0, y=0, width=f"{max(stored, 0.4):.2f}", height=10, class_="stored"),
        viewBox="0 0 100 10",
        preserveAspectRatio="none",
        aria_hidden="true",  # the cells beside it say the same
    )


def value_table(values: dict[str, Any], bounds: PageBounds, *, caption: str, label: str) -> Markup:
    """Return every value that is no tensor, and where the tensors stand among them."""
    rows: list[list[Part]] = []
    more = 0
    for path, value in _leaves(values, ""):
        if len(rows) == bounds.rows:
            more += 1
            continue
        rows.append([tag("code", _cut(path, 200)), *_cells(value, bounds)])
    if more:
        caption = f"{caption}; {more:,} more are not shown"
    classes = {"type": "short", "value": "value"}
    return table(("where", "type", "value"), rows, caption=caption, classes=classes, label=label)


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    if isinstance(value, dict):
        pairs = [
            (str(key) if not path else f"{path}[{key!r}]", part) for key, part in value.items()
        ]
    elif isinstance(value, (list, tuple)) and any(
        isinstance(part, (dict, list, tuple, StoredTensor)) for part in value
    ):
        pairs = [(f"{path}[{at}]", part) for at, part in enumerate(value)]
    if pairs:
        for name, part in pairs:
            yield from _leaves(part, name)
    else:
        yield path, value


def _cells(value: Any, bounds: PageBounds) -> list[Part]:
    if isinstance(value, StoredTensor):
        shape = f" {TIMES} ".join(map(str, value.shape)) or "scalar"
        return [f"{value.dtype} tensor", f"{shape}{_few(value)}"]
    if isinstance(value, (bytes, bytearray)):
        return [type(value).__name__, f"{len(value):,} bytes: {bytes(value[:64]).hex(' ')}"]
    text = value if isinstance(value, str) else repr(value)
    return [type(value).__name__, tag("span", _cut(text, bounds.characters), class_="mono")]


def _few(tensor: StoredTensor) -> str:
    if tensor.table is not None or not 0 < math.prod(tensor.shape) <= 16:
        return ""
    if tensor.dtype.startswith(("bfloat", "float8")):
        return ": " + ", ".join(f"{each:.6g}" for each in tensor.floats(tensor.words.reshape(-1)))
    return ": " + str(tensor.words.tolist())


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]}... {len(text) - most:,} characters more"
