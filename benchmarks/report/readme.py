"""README's first screen: one picture and four numbers, written from the committed results."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.report.growth import knees
from benchmarks.report.plots import CONTROLS, OTHERS, OURS, figure_class, save
from benchmarks.report.read import read_result
from mmformat.errors import MMFormatError

__all__ = ["BEGIN", "END", "first_screen", "write_readme"]

BEGIN: Final = "<!-- numbers: written by benchmarks/run.sh from the committed results -->"
END: Final = "<!-- end of numbers -->"

_WIDTH: Final = 112
_PICTURE: Final = "first-screen.png"
_SHOWN: Final = (
    f"https://raw.githubusercontent.com/mmformat/mmformat/main/docs/benchmarks/{_PICTURE}"
)
_BARS: Final = (
    ("memcpy", "one memcpy, the floor", CONTROLS),
    ("mmformat-arena", "mmformat", OURS),
    ("segment-per-tensor", "a segment per tensor, as SGLang", OTHERS),
    ("msgspec-oob", "msgspec frames, as vLLM", OTHERS),
    ("pickle5-oob", "pickle 5, out-of-band", OTHERS),
    ("pickle5", "pickle 5", OTHERS),
)


def write_readme(path: Path, results: Sequence[Path], *, plots: Path | None = None) -> None:
    """Write the numbers between a file's markers, and draw the picture beside the report's.

    Raises
    ------
    MMFormatError
        When the markers or a result that the numbers are made from are missing.
    """
    text = path.read_text("utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise MMFormatError(f"expected {BEGIN!r} and {END!r} in {path}, got none")
    read = [read_result(each) for each in results]
    if plots is not None:
        _draw(_fanout(read), plots / _PICTURE)
    path.write_text(f"{before}{BEGIN}\n{first_screen(read)}{END}{after}", "utf-8")


def first_screen(results: Sequence[dict[str, Any]]) -> str:
    """Return the Markdown: a picture, four numbers, and what makes them.

    Raises
    ------
    MMFormatError
        When a result that the numbers are made from is missing.
    """
    fanout = _fanout(results)
    images = [
        result
        for result in results
        if result["settings"].get("payload") == "image" and _machine(result) == _machine(fanout)
    ]
    strategies = _newest(images, "strategies")
    numbers = (
        _image(fanout),
        _strategies(strategies),
        _dictionary(strategies),
        _losing(fanout, results),
    )
    how = (
        f"{_machine(fanout)}, {fanout['environment']['time_utc'][:10]}. Medians of committed raw "
        "samples, made by `benchmarks/run.sh`; on your machine: `mmformat bench`. Every "
        "table, with the cells that we lose first, is in "
        "[Benchmarks](https://mmformat.github.io/mmformat/benchmarks/)."
    )
    # Absolute, because PyPI shows README without the repository.
    lines = [f"![Milliseconds until the last of four ranks has read every page]({_SHOWN})", ""]
    for number in numbers:
        lines += textwrap.wrap(
            f"* {number}", _WIDTH, subsequent_indent="  ", break_on_hyphens=False
        )
    lines += ["", *textwrap.wrap(how, _WIDTH, break_on_hyphens=False), ""]
    return "\n".join(lines)


def _fanout(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the newest fan-out that has the payloads of the picture."""
    shown = {"image", "image-small"}
    return _newest(
        [
            result
            for result in results
            if shown <= {payload["name"] for payload in result["payloads"]}
        ],
        "fanout",
    )


def _image(fanout: dict[str, Any]) -> str:
    ours, pickle, frames, floor = (
        _ms(fanout, "image", method)
        for method in ("mmformat-arena", "pickle5", "msgspec-oob", "memcpy")
    )
    return (
        f"**{ours:.1f} ms** from the producer's call until the last of "
        f"{fanout['settings']['readers']} ranks has read every page of a 25.8 MB image: pickle 5 "
        f"takes {pickle:.0f}, msgspec with frames as vLLM {frames:.0f}, a bare memcpy {floor:.1f}."
    )


def _strategies(strategies: dict[str, Any]) -> str:
    cells = {cell["arm"]: cell["metrics"] for cell in strategies["cells"]}
    ours, commit = cells["mmformat-dictionary"], cells["commit"]
    rates = [each["throughput_per_s"]["median"] for each in (ours, commit)]
    blocked = [each["blocked_longest_ms"]["median"] for each in (ours, commit)]
    return (
        f"**{rates[0] / rates[1]:.1f} times the requests per second** of rank 0 that materializes, "
        f"pickles and broadcasts, with real sockets and {strategies['settings']['tp']} ranks; a "
        f"rank's loop stands still for {blocked[0]:.0f} ms at most, not {blocked[1]:.0f}."
    )


def _dictionary(strategies: dict[str, Any]) -> str:
    moved = {cell["arm"]: cell["metrics"]["moved_nbytes"] for cell in strategies["cells"]}
    plain, codes = (moved[method]["median"] for method in ("mmformat", "mmformat-dictionary"))
    return (
        f"**{plain / codes:.1f} times fewer bytes** for a photograph's float32 patches, bit for "
        f"bit the same: {codes / 1e6:.1f} MB of codes and a table, not {plain / 1e6:.1f}."
    )


def _losing(fanout: dict[str, Any], results: Sequence[dict[str, Any]]) -> str:
    ours, frames = (
        _ms(fanout, "image-small", method) for method in ("mmformat-arena", "msgspec-oob")
    )
    word = "slower" if ours > frames else "faster"
    told = (
        f"**{max(ours, frames) / min(ours, frames):.1f} times {word} at 0.6 MB** ({ours:.1f} ms, "
        f"msgspec with frames {frames:.1f})"
    )
    growth = [
        result
        for result in results
        if result["scenario"] == "growth" and _machine(result) == _machine(fanout)
    ]
    found = knees(growth[-1]) if growth else {}
    if not found:
        return f"{told}: small requests are not what this is for."
    parts = []
    for ranks, nbytes in found.items():
        size = "no size measured" if nbytes is None else f"{nbytes / 1e6:.1f} MB"
        parts.append(f"{size} with {ranks}")
    return f"{told}. Shared memory begins to pay beside pickle's frames at {', '.join(parts)}."


def _machine(result: dict[str, Any]) -> str:
    found = result["environment"]
    cores, gibibytes = found["cores_usable"], found["memory_nbytes"] / 2**30
    return f"{found['cpu']}, {cores} cores, {gibibytes:.0f} GiB"


def _ms(result: dict[str, Any], payload: str, method: str) -> float:
    for cell in result["cells"]:
        if (cell["payload"], cell["arm"]) == (payload, method):
            return float(cell["metrics"]["touched_ns"]["median"]) / 1e6
    raise MMFormatError(f"expected {method} with {payload} in the fan-out's result, got none")


def _newest(results: Sequence[dict[str, Any]], scenario: str) -> dict[str, Any]:
    found = [result for result in results if result["scenario"] == scenario]
    if not found:
        raise MMFormatError(f"expected a result of {scenario}, got none")
    return max(found, key=lambda result: str(result["environment"]["time_utc"]))


def _draw(fanout: dict[str, Any], path: Path) -> None:
    figure = figure_class()(figsize=(8, 2.9))
    panels = figure.subplots(1, 2, gridspec_kw={"wspace": 0.12})
    for panel, payload, title in (
        (panels[0], "image", "one image, 25.8 MB"),
        (panels[1], "image-small", "0.6 MB: do not bother"),
    ):
        for row, (method, _, colour) in enumerate(_BARS):
            value = _ms(fanout, payload, method)
            panel.barh(row, value, color=colour)
            panel.annotate(f" {value:.3g}", (value, row), va="center", fontsize=8)
        panel.set_title(title, fontsize=9, loc="left")
        panel.set_xlim(0, panel.get_xlim()[1] * 1.15)
        panel.tick_params(labelsize=8)
        panel.spines[["top", "right"]].set_visible(False)
        panel.set_yticks(range(len(_BARS)), [title for _, title, _ in _BARS])
    panels[1].set_yticks(range(len(_BARS)), [""] * len(_BARS))
    figure.suptitle(
        f"milliseconds until the last of {fanout['settings']['readers']} ranks has read every page",
        fontsize=10,
    )
    figure.subplots_adjust(left=0.27, right=0.97, top=0.8, bottom=0.1)
    save(figure, path)
