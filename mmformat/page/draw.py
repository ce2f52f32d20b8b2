"""Draw the page: a message's items, what they look like, how large they are, where they lie."""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from typing import Any, Final

from mmformat._extras import DISTRIBUTION
from mmformat.codec.describe import ItemDescription, MessageDescription, describe
from mmformat.errors import MMFormatError
from mmformat.model.item import MultimodalInputs
from mmformat.model.limits import Limits
from mmformat.model.repr import megabytes
from mmformat.page.bounds import Budget, PageBounds
from mmformat.page.html import TIMES, Markup, Part, join, ratio, size_bar, table, tag
from mmformat.page.sections import item_section, request_section
from mmformat.page.values import read_values

__all__ = [
    "PageBounds",
    "draw",
    "style",
]


@cache
def style() -> str:
    """Return the style sheet, which lies beside this module.

    >>> "url(" in style()
    False
    """
    return (files("mmformat.page") / "style.css").read_text("utf-8")


_MODALITIES: Final = {
    "IMAGE": ("image", "images"),
    "MULTI_IMAGES": ("group of images", "groups of images"),
    "VIDEO": ("video", "videos"),
    "AUDIO": ("sound", "sounds"),
}


def draw(
    source: Any,
    *,
    title: str = "A message",
    bounds: PageBounds | None = None,
    limits: Limits | None = None,
) -> str:
    """Return a page of HTML that shows what a message holds.

    Parameters
    ----------
    source : EncodedMessage, bytes, buffer, list of frames, or path
        The message; a path is mapped.
    title : str
        What the page is called, as the file's name.
    bounds : PageBounds, optional
        How much is shown.
    limits : Limits, optional
        What the message may ask for.

    Returns
    -------
    str
        The page. It loads nothing and runs nothing: it has no script, and a content security
        policy that forbids both.

    Raises
    ------
    DecodeError
        When metadata or columns are not what the format says. What else is broken stands in the
        page.
    LimitError
        When the message asks for more than the limits allow.

    Notes
    -----
    **Copies**: the values that are looked at, and what is compressed. **Cost**: in the measure of
    the bounds, whatever the message's size. Torch is not needed, nor Pillow.

    Examples
    --------
    >>> import mmformat as mm
    >>> page = draw(mm.encode(mm.MultimodalInputs()), title="<b>")
    >>> "<h1>&lt;b&gt;</h1>" in page, "<script" in page
    (True, False)
    """
    limit = bounds or PageBounds()
    told = describe(source, limits=limits)
    inputs, problem = _values(source, told, limit, limits)
    budget = Budget(limit)
    sections = [
        item_section(each, None if inputs is None else inputs.items[at], budget)
        for at, each in enumerate(told.items[: limit.items])
    ]
    left = len(told.items) - len(sections)
    if told.request is not None:
        data = None if inputs is None else inputs.request_data
        sections.append(request_section(told.request, data, budget))
    more = f"{left:,} more items stand in the table of sizes alone." if left else None
    main = tag(
        "main",
        None if problem is None else tag("p", problem, class_="problem", role="note"),
        *sections,
        None if more is None else tag("p", more, class_="note"),
        _sizes(told, limit),
        _layout(told, limit),
        id="items",
        tabindex=-1,
    )
    return _page(title, join(_header(title, told), _navigation(told, limit), main, _footer()))


def _values(
    source: Any, told: MessageDescription, bounds: PageBounds, limits: Limits | None
) -> tuple[MultimodalInputs | None, str | None]:
    compressed = sum(each.encoded_nbytes for each in told.tensors if each.compressed)
    if compressed > bounds.decompressed_nbytes:
        return None, (
            f"No values are shown: {megabytes(compressed)} would have to be decompressed, and the "
            f"page's bound is {megabytes(bounds.decompressed_nbytes)}."
        )
    try:
        return read_values(source, limits=limits), None
    except MMFormatError as error:
        return None, f"No values are shown, because the message is broken ({error.code}): {error}"


def _page(title: str, body: Markup) -> str:
    sheet = style()
    digest = base64.b64encode(hashlib.sha256(sheet.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; "
        "base-uri 'none'; form-action 'none'"
    )
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="referrer", content="no-referrer"),
        tag("title", f"{title} - mmformat inspect"),
        Markup(f"<style>{sheet}</style>"),
    )
    skip = tag("a", "Skip to the items", href="#items", class_="skip")
    whole = tag("html", head, tag("body", skip, body), lang="en")
    return f"<!doctype html>\n{whole}\n"


def _header(title: str, told: MessageDescription) -> Markup:
    plain = told.tensor_nbytes
    pairs = [
        (megabytes(told.nbytes), "the message"),
        (megabytes(plain), "its tensors, plain"),
        (f"{ratio(plain, told.nbytes)} {TIMES}", "ratio"),
        (f"{len(told.tensors):,}", "tensors"),
        (str(told.version), "version of the format"),
    ]
    figures = [tag("div", tag("dt", name), tag("dd", value)) for value, name in pairs]
    return tag(
        "header",
        tag("p", "mmformat inspect", class_="kicker"),
        tag("h1", title),
        tag("p", _lede(told), class_="lede"),
        tag("dl", *figures, class_="figures"),
    )


def _lede(told: MessageDescription) -> str:
    counts = Counter(item.modality for item in told.items)
    texts = []
    for modality, count in counts.items():
        one, many = _MODALITIES.get(modality, (modality, modality))
        texts.append(f"{count:,} {one if count == 1 else many}")
    media = " and ".join([", ".join(texts[:-1]), texts[-1]] if len(texts) > 1 else texts)
    if told.request is None:
        return f"A request with {media or 'no media'}."
    return f"A request with {media or 'no media'}, and data of its own."


def _navigation(told: MessageDescription, bounds: PageBounds) -> Markup:
    links = [
        tag("a", f"Item {item.index} {item.modality}", href=f"#item-{item.index}")
        for item in told.items[: bounds.items]
    ]
    if told.request is not None:
        links.append(tag("a", "The whole request", href="#request"))
    links += [tag("a", "Sizes", href="#sizes"), tag("a", "Layout", href="#layout")]
    return tag("nav", tag("ul", *(tag("li", link) for link in links)), aria_label="On this page")


def _sizes(told: MessageDescription, bounds: PageBounds) -> Markup:
    rows: list[list[Part]] = []
    items: list[ItemDescription] = list(told.items)
    if told.request is not None:
        items.append(told.request)
    tensors = [(item, tensor) for item in items for tensor in item.tensors]
    tensors.sort(key=lambda pair: -pair[1].nbytes)
    most = tensors[0][1].nbytes if tensors else 0
    for item, tensor in tensors[: bounds.rows]:
        where = "Request" if item.index < 0 else f"Item {item.index}"
        rows.append(
            [
                join(where, " ", tag("code", tensor.name)),
                size_bar(tensor.nbytes, tensor.stored_nbytes, most=most),
                megabytes(tensor.nbytes),
                megabytes(tensor.stored_nbytes),
                ratio(tensor.nbytes, tensor.stored_nbytes),
            ]
        )
    left = len(tensors) - len(rows)
    caption = "Tensors by size: the pale bar is plain, the dark one is stored"
    if left:
        caption += f"; {left:,} smaller ones are not shown"
    stored = sum(tensor.stored_nbytes for _, tensor in tensors)
    overhead = told.nbytes - stored
    choices: list[list[Part]] = [
        [
            join("Request" if each.item < 0 else f"Item {each.item}", " ", tag("code", each.name)),
            each.codec,
            each.reason,
        ]
        for each in told.choices[: bounds.rows]
    ]
    chosen = table(
        ("tensor", "compression", "because"),
        choices,
        caption="Compression, as the writer says that it was chosen",
        classes={"compression": "short"},
    )
    return tag(
        "section",
        tag("h2", "Sizes", id="sizes-heading"),
        table(
            ("tensor", "plain and stored", "plain", "stored", "ratio"),
            rows,
            caption=caption,
            numbers=("plain", "stored", "ratio"),
            classes={"plain and stored": "bars"},
        )
        if rows
        else tag("p", "There are no tensors."),
        tag(
            "p",
            f"Columns, metadata and padding are {megabytes(overhead)} of the message's "
            f"{megabytes(told.nbytes)}.",
            class_="note",
        ),
        chosen if choices else None,
        id="sizes",
        aria_labelledby="sizes-heading",
    )


def _layout(told: MessageDescription, bounds: PageBounds) -> Markup:
    rows: list[list[Part]] = [
        [
            f"Batch {number}",
            f"{batch.at:,}",
            f"{batch.body_at:,}",
            f"{batch.end:,}",
            str(batch.rows),
            str(batch.tensors),
            batch.codec or "no",
        ]
        for number, batch in enumerate(told.batches[: bounds.rows])
    ]
    return tag(
        "section",
        tag("h2", "Layout", id="layout-heading"),
        table(
            ("record batch", "at byte", "body at", "end", "rows", "tensors", "compressed"),
            rows,
            caption=f"An Arrow stream of {told.nbytes:,} bytes",
            numbers=("at byte", "body at", "end", "rows", "tensors"),
        ),
        id="layout",
        aria_labelledby="layout-heading",
    )


def _footer() -> Markup:
    try:
        library = version(DISTRIBUTION)
    except PackageNotFoundError:  # run from a folder that was never installed
        library = "of an unknown version"
    return tag(
        "footer",
        tag(
            "p",
            f"Drawn by mmformat {library}. Names, texts and identities are the sender's claims. "
            "This page loads nothing and runs nothing.",
        ),
    )
