"""README's first screen: one picture and five numbers, written from the committed results."""

from __future__ import annotations

import json
import statistics
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.report.growth import knees
from benchmarks.report.plots import CONTROLS, OTHERS, OURS, as_label, figure_class, save
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
    ("mmformat-arena", "mmformat, plain", OURS),
    ("mmformat-arena-codes", "mmformat, dictionary codes", OURS),
    ("segment-per-tensor", "a segment per tensor, as SGLang", OTHERS),
    ("msgspec-oob", "msgspec with frames, as vLLM", OTHERS),
    ("pickle5-oob", "pickle 5, out-of-band", OTHERS),
    ("pickle5", "pickle 5", OTHERS),
)
"""Of the fan-out with a photograph."""
_ENGINE: Final = Path(__file__).parents[1] / "engines/results/vllm_0_33.json"
_HOPS: Final = (
    ("mmformat, plain", "mmformat, plain", OURS),
    ("mmformat, dictionary", "mmformat, dictionary", OURS),
    ("MessageQueue, shm tensor arena", "vLLM's shm tensor arena", OTHERS),
    ("MsgpackEncoder, a socket to each", "vLLM's MsgpackEncoder, sockets", OTHERS),
    ("MessageQueue", "vLLM's MessageQueue", OTHERS),
)
"""Of vLLM's own classes, one hop."""
_ONE: Final = "image f32 25.8 MB"
_EIGHT: Final = "8 images f32 206 MB"


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
    """Return the Markdown: a picture, five numbers, and what makes them.

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
        _engine(),
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
    shown = {"photo", "image-small"}
    return _newest(
        [
            result
            for result in results
            if shown <= {payload["name"] for payload in result["payloads"]}
        ],
        "fanout",
    )


def _image(fanout: dict[str, Any]) -> str:
    methods = ("mmformat-arena", "mmformat-arena-codes", "pickle5", "msgspec-oob", "memcpy")
    plain, codes, pickle, frames, floor = (_ms(fanout, "photo", each) for each in methods)
    rounds = next(
        cell["metrics"]["touched_ns"]["n"]
        for cell in fanout["cells"]
        if (cell["payload"], cell["arm"]) == ("photo", "mmformat-arena")
    )
    return (
        f"**{plain:.1f} ms** plain, {codes:.1f} as dictionary codes, from the producer's call "
        f"until the last of {fanout['settings']['readers']} ranks has read every page of a 25.8 MB "
        f"photograph (median of {rounds} rounds): pickle 5 takes {pickle:.0f}, msgspec with frames "
        f"as vLLM {frames:.0f}, a bare memcpy {floor:.1f}."
    )


def _hops(size: str) -> dict[str, float]:
    """Return the milliseconds of one hop through vLLM's classes and ours, by what carries it."""
    samples = json.loads(_ENGINE.read_text("utf-8"))["samples"][size]
    return {
        name.removeprefix("one hop: "): statistics.median(values["touched"]) / 1e6
        for name, values in samples.items()
        if name.startswith("one hop: ")
    }


def _engine() -> str:
    one, eight = _hops(_ONE), _hops(_EIGHT)
    rival = "MessageQueue, shm tensor arena"
    plain, codes = "mmformat, plain", "mmformat, dictionary"
    return (
        f"**Beside vLLM 0.33's shm tensor arena**, the strongest rival, one hop to 4 workers: "
        f"25.8 MB in {one[plain]:.1f} ms plain and {one[codes]:.1f} dictionary, its "
        f"{one[rival]:.1f}; 206 MB in {eight[plain]:.0f} plain and {eight[codes]:.0f} dictionary, "
        f"its {eight[rival]:.0f}."
    )


def _strategies(strategies: dict[str, Any]) -> str:
    cells = {cell["arm"]: cell["metrics"] for cell in strategies["cells"]}
    plain, codes, rank_0 = (
        cells[name]["throughput_per_s"]["median"]
        for name in ("mmformat", "mmformat-dictionary", "rank-0")
    )
    blocked = [
        cells[name]["blocked_longest_ms"]["median"]
        for name in ("mmformat", "mmformat-dictionary", "rank-0")
    ]
    rounds = strategies["settings"]["rounds"]
    return (
        f"**{plain / rank_0:.1f} times the requests per second** plain, {codes / rank_0:.1f} times "
        "with dictionary encoding, of a server whose rank 0 decodes and broadcasts a pickle "
        f"({strategies['settings']['tp']} ranks, real sockets, {rounds} "
        f"{'round' if rounds == 1 else 'rounds'}); the longest event-loop stall drops from "
        f"{blocked[2]:.0f} ms to {blocked[0]:.0f} and {blocked[1]:.0f}."
    )


def _dictionary(strategies: dict[str, Any]) -> str:
    moved = {cell["arm"]: cell["metrics"]["moved_nbytes"] for cell in strategies["cells"]}
    plain, codes = (moved[method]["median"] for method in ("mmformat", "mmformat-dictionary"))
    return (
        f"**{plain / codes:.1f} times fewer bytes** with dictionary encoding of a photograph's "
        f"float32 patches, bit for bit the same: {codes / 1e6:.1f} MB of codes and a table, not "
        f"{plain / 1e6:.1f}."
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
    sizes = [nbytes for ranks, nbytes in found.items() if ranks != "1 rank" and nbytes]
    if not sizes:
        return f"{told}: small requests are not what this is for."
    alone = found.get("1 rank")
    also = f"; with 1 rank from {alone / 1e6:.1f} MB" if alone else ""
    return (
        f"{told}. It pays from {max(sizes) / 1e6:.1f} MB with 2 or more ranks, beside pickle 5 "
        f"out-of-band{also}."
    )


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
    figure = figure_class()(figsize=(9, 2.6), layout="constrained")
    panels = figure.subplots(1, 2)
    hops = _hops(_ONE)
    bars = [(title, _ms(fanout, "photo", name), colour) for name, title, colour in _BARS]
    ranks = fanout["settings"]["readers"]
    for panel, shown, title in (
        (panels[0], bars, f"from one producer to {ranks} ranks"),
        (
            panels[1],
            [(title, hops[name], colour) for name, title, colour in _HOPS],
            "inside vLLM 0.33, to 4 workers",
        ),
    ):
        for row, (_, value, colour) in enumerate(reversed(shown)):
            panel.barh(row, value, color=colour)
            panel.annotate(f" {as_label(value)}", (value, row), va="center", fontsize=8)
        panel.set_yticks(range(len(shown)), [label for label, *_ in reversed(shown)])
        panel.set_title(title, fontsize=9, loc="left")
        panel.set_xlim(0, max(value for _, value, _ in shown) * 1.15)
        panel.tick_params(labelsize=8)
        panel.spines[["top", "right"]].set_visible(False)
        panel.set_xlabel("ms until the last has read all 25.8 MB", fontsize=8)
    save(figure, path)
