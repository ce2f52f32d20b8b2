"""The page of `mmformat inspect --html` in a real browser: whole, silent, harmless, usable."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mmformat as mm
from mmformat.cli.front import main
from mmformat.media.audio import WhisperProcessor
from mmformat.media.image import QwenVLImageProcessor
from mmformat.media.video_processors import QwenVLVideoProcessor
from tests.integration.browser import Page, browser, find_browser

DATA = Path(__file__).parents[1] / "data"
AXE = Path(__file__).parent / "axe" / "node_modules" / "axe-core" / "axe.min.js"
COMMAND = find_browser()

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(
        COMMAND is None,
        reason="needs a Chromium on the path or in MMFORMAT_CHROMIUM: `make browser` as root "
        "installs Debian's",
    ),
]

# Each would set window.hacked, load something, hide the page or turn its text around.
ATTACKS = [
    "<script>window.hacked=1</script>",
    '"><img src=x onerror="window.hacked=2">',
    "' onmouseover='window.hacked=3' autofocus onfocus='window.hacked=3",
    "</style><style>*{display:none !important}</style>",
    "</title></head><body onload='window.hacked=4'>",
    "</details></section></main><iframe srcdoc='<script>parent.hacked=5</script>'></iframe>",
    "javascript:window.hacked=6",
    "<svg><animate onbegin='window.hacked=7' attributeName=x dur=1s>",
    "<link rel=stylesheet href=https://example.invalid/x.css>",
    "<meta http-equiv=refresh content='0;url=https://example.invalid/'>",
    "<base href=https://example.invalid/><a href=x>",
    "&lt;script&gt;window.hacked=8&lt;/script&gt;",
    "\u202etxt.exe\u202c \u2066isolated\u2069 \u200f",
    "nul \x00 escape \x1b[2J",
    "--><!-- ]]><![CDATA[",
]


def _photos() -> mm.MultimodalInputs:
    photos = DATA / "photos"
    items = [
        mm.MultimodalDataItem(
            modality="IMAGE", feature=mm.Source(photos / "china-640x427.jpg"), offsets=[(3, 347)]
        ),
        mm.MultimodalDataItem(
            modality="VIDEO", feature=mm.Source(DATA / "video" / "coffee-rocket-320x240.mp4")
        ),
        mm.MultimodalDataItem(
            modality="AUDIO", feature=mm.Source(DATA / "audio" / "speech-22050-mono.flac")
        ),
    ]
    return mm.materialize(
        mm.MultimodalInputs(items=items, request_data={"im_token_id": 151655, "prompt": "Why?"}),
        {
            mm.Modality.IMAGE: QwenVLImageProcessor(),
            mm.Modality.VIDEO: QwenVLVideoProcessor(fps=1.0),
            mm.Modality.AUDIO: WhisperProcessor(),
        },
    )


def _hostile() -> mm.MultimodalInputs:
    values: dict[Any, Any] = {text: [text, {text: text}] for text in ATTACKS}
    values |= {f"tensor {text}": np.arange(20.0) for text in ATTACKS}
    values |= {"half a pair \ud800": ["\ud800"]}
    values |= {"long": "x" * 100_000, "many": list(range(10_000)), "bytes": b"<b>" * 99}
    values |= {f"key {at}": at for at in range(1000)}
    noise = np.random.default_rng(0).normal(size=(1, 3, 40, 900)).astype(np.float32)
    nothing = [np.full((2, 3, 64, 64), np.nan, np.float32), np.zeros((0, 3, 8, 8), np.uint8)]
    item = mm.MultimodalDataItem(
        modality="IMAGE",
        feature=noise,
        identity="".join(ATTACKS),
        hash=-(2**70),
        offsets=[(at, at + 3) for at in range(900)],
        model_specific_data=values,
    )
    return mm.MultimodalInputs(
        items=[item, mm.MultimodalDataItem(modality="VIDEO", feature=nothing)],
        request_data=dict(values),
    )


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return the pages by name, as the command line draws them."""
    folder = tmp_path_factory.mktemp("pages")
    found = {}
    for name, inputs in (("request", _photos()), ("hostile", _hostile())):
        message = folder / f"{name} <script>window.hacked=9<\u2044script>.arrows"
        mm.encode(inputs).save(message)
        found[name] = folder / f"{name}.html"
        assert main(["inspect", str(message), "--html", str(found[name])]) == 0
    return found


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    assert COMMAND is not None
    with browser(COMMAND, tmp_path_factory.mktemp("profile")) as page:
        yield page


each_page = pytest.mark.parametrize("name", ["request", "hostile"])


def test_the_browser_would_tell(tab: Page, tmp_path: Path) -> None:
    """The control: a page that loads, runs and complains is seen to do so."""
    path = tmp_path / "bad.html"
    path.write_text(
        "<!doctype html><meta charset=utf-8><img src='https://example.invalid/x.png'>"
        "<script>window.hacked = 1; console.error('loud')</script>"
    )
    tab.open(path)
    assert tab.run("window.hacked") == 1
    assert any("example.invalid" in address for address in tab.requests)
    assert any("loud" in message for message in tab.messages)


@each_page
def test_nothing_is_loaded_run_or_complained_of(
    tab: Page, pages: dict[str, Path], name: str
) -> None:
    tab.open(pages[name])
    tab.run("document.querySelectorAll('details').forEach(each => each.open = true)")
    outside = [each for each in tab.requests if not each.startswith("data:image/png;base64,")]
    assert outside == [pages[name].as_uri()]
    assert tab.messages == []
    assert tab.run("window.hacked") is None
    assert tab.run("location.href") == pages[name].as_uri()
    assert tab.run("document.querySelectorAll('script, iframe, link, base, object').length") == 0
    assert tab.run("document.querySelectorAll('style').length") == 1
    handlers = "[...document.querySelectorAll('*')].flatMap(each => each.getAttributeNames())"
    names = set(tab.run(f"[...new Set({handlers})]"))
    assert not {each for each in names if each.startswith("on") or each == "style"}


def test_attacks_are_text(tab: Page, pages: dict[str, Path]) -> None:
    """What would be markup is there to be read, and what is not seen is spelt out."""
    tab.open(pages["hostile"])
    text = tab.run("document.body.textContent")
    for attack in ATTACKS[:12]:
        assert attack in text, attack
    assert "\\u202etxt.exe\\u202c" in text
    assert "nul \\x00 escape \\x1b[2J" in text
    assert "half a pair \\ud800" in text
    assert not set("\u202e\u202c\u2066\u2069\u200f\x00\x1b") & set(text)
    assert tab.run("document.title").startswith("hostile <script>")


def test_the_items_are_there(tab: Page, pages: dict[str, Path]) -> None:
    tab.open(pages["request"])
    headings = tab.run("[...document.querySelectorAll('h2')].map(each => each.textContent)")
    assert headings == [
        "Item 0 IMAGE",
        "Item 1 VIDEO",
        "Item 2 AUDIO",
        "The whole request",
        "Sizes",
        "Layout",
    ]
    pictures = "[...document.querySelectorAll('#item-{} img')]"
    count = {at: tab.run(f"{pictures.format(at)}.length") for at in range(3)}
    assert (count[0], count[2]) == (1, 1)
    assert count[1] >= 4
    drawn = "{}.every(each => each.complete && each.naturalWidth > 100)"
    assert all(tab.run(drawn.format(pictures.format(at))) for at in range(3))
    assert tab.run("document.querySelectorAll('svg.histogram path').length") >= 7
    words = tab.run("document.querySelector('#item-0').innerText")
    assert "644 \N{MULTIPLICATION SIGN} 420 pixels" in words
    assert "CLIP's mean and std undone" in words
    assert "3 to 347 (345 tokens)" in words


@each_page
@pytest.mark.parametrize("width", [360, 768, 1440])
def test_no_width_makes_the_page_scroll_sideways(
    tab: Page, pages: dict[str, Path], name: str, width: int
) -> None:
    tab.open(pages[name], width=width)
    tab.run("document.querySelectorAll('details').forEach(each => each.open = true)")
    assert tab.run("document.documentElement.scrollWidth") <= width


_ORDER = """
(() => {
  const problems = [];
  const all = query => [...document.querySelectorAll(query)];
  let before = 0;
  for (const each of all('h1, h2, h3, h4')) {
    const level = Number(each.tagName[1]);
    if (level > before + 1) problems.push('heading skips to ' + each.tagName);
    before = level;
  }
  if (all('h1').length !== 1) problems.push('not one h1');
  for (const landmark of ['header', 'nav', 'main', 'footer'])
    if (all(landmark).length !== 1) problems.push('not one ' + landmark);
  if (!document.documentElement.lang) problems.push('no language');
  for (const each of all('img')) if (!each.alt) problems.push('picture without alt');
  for (const each of all('svg'))
    if (!each.getAttribute('aria-label') && each.getAttribute('aria-hidden') !== 'true')
      problems.push('drawing without a name');
  for (const each of all('table')) {
    if (!each.caption) problems.push('table without a caption');
    if ([...each.querySelectorAll('th')].some(head => !head.scope)) problems.push('no scope');
  }
  const ids = all('[id]').map(each => each.id);
  if (new Set(ids).size !== ids.length) problems.push('an id twice');
  for (const each of all('a')) {
    if (!document.querySelector(each.getAttribute('href'))) problems.push('link to nowhere');
  }
  return problems;
})()
"""


@each_page
def test_a_screen_reader_finds_its_way(tab: Page, pages: dict[str, Path], name: str) -> None:
    tab.open(pages[name])
    assert tab.run(_ORDER) == []


def test_the_keyboard_reaches_everything_in_order(tab: Page, pages: dict[str, Path]) -> None:
    """Tab goes from top to bottom, the focus is seen, Enter opens what is folded."""
    tab.open(pages["request"])
    place = """(() => {
      const each = document.activeElement, box = each.getBoundingClientRect();
      const outline = getComputedStyle(each).outlineStyle;
      return [each.tagName, each.textContent.slice(0, 20), box.top + scrollY, outline];
    })()"""
    seen = []
    for _ in range(40):
        tab.press("Tab", 9)
        found = tab.run(place)
        if found[0] == "BODY":
            break
        seen.append(found)
    assert seen[0][:2] == ["A", "Skip to the items"]
    kinds = [each[0] for each in seen]
    assert {"A", "DIV", "SUMMARY"} <= set(kinds)
    assert all(each[3] != "none" for each in seen)
    tops = [each[2] for each in seen[1:]]
    assert tops == sorted(tops)
    tab.run("document.querySelector('summary').focus()")
    tab.call("Input.dispatchKeyEvent", type="keyDown", key="Enter", text="\r", unmodifiedText="\r")
    tab.call("Input.dispatchKeyEvent", type="keyUp", key="Enter")
    assert tab.run("document.querySelector('details').open") is True


@each_page
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.skipif(not AXE.exists(), reason="needs axe-core: `make browser` gets it with npm")
def test_axe_finds_nothing(tab: Page, pages: dict[str, Path], name: str, dark: bool) -> None:
    """Contrast, names, roles, landmarks, tables: all rules of axe-core, in both colour schemes."""
    tab.open(pages[name], dark=dark)
    tab.run("document.querySelectorAll('details').forEach(each => each.open = true)")
    tab.run(AXE.read_text("utf-8") + "; 0")
    found = tab.run(
        "axe.run(document, {resultTypes: ['violations']}).then(result => JSON.stringify("
        "[result.passes.length, result.violations.map("
        "each => [each.id, each.nodes.slice(0, 3).map(node => node.html.slice(0, 200))])]))"
    )
    passed, violations = json.loads(found)
    assert violations == []
    assert passed > 15


def test_dark_is_dark(tab: Page, pages: dict[str, Path]) -> None:
    colour = "getComputedStyle(document.body).backgroundColor"
    tab.open(pages["request"])
    light = tab.run(colour)
    tab.open(pages["request"], dark=True)
    assert light == "rgb(251, 250, 247)"
    assert tab.run(colour) == "rgb(20, 25, 26)"
