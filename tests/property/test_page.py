"""Whatever a message holds, it has a page that is whole and harmless, or an MMFormatError."""

from __future__ import annotations

from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mmformat as mm
from mmformat.page import draw
from mmformat.testing import golden_vectors, strategies
from tests.support.sweep import LIMITS

ALLOWED = {
    *("html", "head", "meta", "title", "style", "body", "a", "header", "p", "h1", "h2", "h3"),
    *("dl", "div", "dt", "dd", "nav", "ul", "li", "main", "section", "span", "code", "footer"),
    *("figure", "img", "figcaption", "svg", "path", "rect", "line", "details", "summary"),
    *("table", "caption", "thead", "tbody", "tr", "th", "td"),
}
VOID = {"meta", "img"}


class _Reader(HTMLParser):
    """Read a page as a browser would, and hold it to what this package writes."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        assert tag in ALLOWED, tag
        for name, value in attributes:
            assert not name.startswith("on"), name
            assert name != "style"
            if name in ("href", "src"):
                assert value is not None
                assert value.startswith(("#", "data:image/png;base64,")), value
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text.append(data)


def _check(page: str) -> str:
    page.encode()  # no half surrogate pairs
    reader = _Reader()
    reader.feed(page)
    reader.close()
    assert reader.open == []
    text = "".join(reader.text)
    hidden = {each for each in text if not each.isprintable() and each != "\n"}
    assert not hidden, hidden
    return text


@settings(max_examples=150)
@given(strategies.inputs(), st.text(max_size=40))
def test_any_inputs_have_a_page(inputs: mm.MultimodalInputs, title: str) -> None:
    try:
        message = mm.encode(inputs)
    except mm.EncodeError:  # text that UTF-8 cannot hold, as an identity
        return
    text = _check(draw(bytes(message), title=title))
    assert "No values are shown" not in text


_PIECES = st.sampled_from(
    [
        "<",
        ">",
        '"',
        "'",
        "&",
        "&lt;",
        "script",
        "</",
        "style>",
        "<!--",
        "-->",
        "]]>",
        "\u202e",
        "\0",
    ]
)


@settings(max_examples=150)
@given(st.lists(_PIECES, max_size=12).map("".join))
def test_text_never_becomes_markup(text: str) -> None:
    item = mm.MultimodalDataItem(
        modality="IMAGE",
        feature=[np.zeros((20, 3))],
        identity=text,
        model_specific_data={text: [text, {text: text.encode()}], f"t{text}": np.zeros(20)},
    )
    inputs = mm.MultimodalInputs(items=[item], request_data={text: {text: np.zeros(3)}})
    _check(draw(mm.encode(inputs), title=text))


@pytest.mark.parametrize("vector", golden_vectors(), ids=lambda vector: vector.name)
def test_every_vector_has_a_page_or_an_error(vector: object) -> None:
    try:
        page = draw(vector.path)  # type: ignore[attr-defined]
    except mm.MMFormatError:
        return
    _check(page)


@settings(max_examples=200)
@given(st.data())
def test_changed_bytes_have_a_page_or_an_error(data: st.DataObject) -> None:
    vectors = [each for each in golden_vectors("valid") if each.path.stat().st_size < 20_000]
    message = bytearray(data.draw(st.sampled_from(vectors)).read())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(message) - 1))
        message[at] = data.draw(st.sampled_from([0, 1, 0x22, 0x3C, 0x7F, 0x80, 0xFF]))
    try:
        page = draw(bytes(message), limits=LIMITS)
    except mm.MMFormatError:
        return
    _check(page)
