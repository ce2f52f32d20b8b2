"""The section and the pictures of how cost grows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.growth import knee_nbytes
from benchmarks.report.plots import figure_class, logarithmic, machine_of, save
from benchmarks.report.tables import arm_title, as_text, markdown

__all__ = [
    "axes_of",
    "growth_section",
    "knees",
    "plot_growth",
    "points",
    "title_of",
]


def axes_of(result: dict[str, Any]) -> list[str]:
    """Return the axes of a result: in its order, those of the knee last."""
    found = dict.fromkeys(payload["axis"] for payload in result["payloads"])
    return sorted(found, key=lambda axis: axis.startswith("knee"))


def points(result: dict[str, Any], axis: str, method: str) -> list[tuple[float, dict[str, Any]]]:
    """Return how far an axis has grown and the samples of the cost there, for one method."""
    places = {each["name"]: each["at"] for each in result["payloads"] if each["axis"] == axis}
    return sorted(
        (
            (places[cell["payload"]], cell["metrics"]["cost_ns"])
            for cell in result["cells"]
            if cell["arm"] == method and cell["payload"] in places
        ),
        key=lambda each: each[0],
    )


def knees(result: dict[str, Any]) -> dict[str, float | None]:
    """Return, by number of ranks, from how many bytes our arena costs less than pickle's frames."""
    found = {}
    for axis in axes_of(result):
        if axis.startswith("knee"):
            ours, theirs = (
                [(at, samples["median"]) for at, samples in points(result, axis, method)]
                for method in ("mmformat-arena", "pickle5-oob")
            )
            if ours and theirs:
                found[axis.partition(", ")[2]] = knee_nbytes(ours, theirs)
    return found


def title_of(axis: str) -> str:
    """Return what grows along an axis, in words.

    Examples
    --------
    >>> title_of("knee, 4 ranks")
    'Until 4 ranks have read it, by size'
    """
    if axis.startswith("knee"):
        return f"Until {axis.partition(', ')[2]} have read it, by size".replace(
            "1 rank have", "1 rank has"
        )
    return _TITLES[axis]


_TITLES: Final = {
    "bytes": "One put, by its size",
    "ranks": "One put, by the number of ranks",
    "items": "One put, by its items",
    "requests": "One put, by the requests before it",
}


def growth_section(result: dict[str, Any]) -> Iterator[str]:
    """Return the lines of the section."""
    yield from _knee_table(result)
    for line in _statements(result):
        yield f"* {line}"
    yield ""
    for axis in axes_of(result):
        methods = [each["name"] for each in result["arms"] if points(result, axis, each["name"])]
        by_method = {method: dict(points(result, axis, method)) for method in methods}
        titles = {each["at"]: each["title"] for each in result["payloads"] if each["axis"] == axis}
        rows = []
        for at, title in titles.items():
            row = [title]
            for method in methods:
                samples = by_method[method].get(at)
                row.append(
                    ""
                    if samples is None
                    else f"{as_text('_ns', samples['median'])} ({as_text('_ns', samples['iqr'])})"
                )
            rows.append(row)
        yield f"**{title_of(axis)}**"
        yield ""
        yield from markdown(
            ["cost in ms, median (IQR)", *(arm_title(result, method) for method in methods)], rows
        )
        yield ""


def _knee_table(result: dict[str, Any]) -> Iterator[str]:
    found = knees(result)
    if not found:
        return
    yield "From what size the arena costs less than pickle 5 out-of-band, until the last rank has"
    yield "read every page; below it pickle is the faster way:"
    yield ""
    smallest = min(each["at"] for each in result["payloads"] if each["axis"].startswith("knee"))
    rows = []
    for ranks, nbytes in found.items():
        if nbytes is None:
            told = "at no size that was measured"
        elif nbytes <= smallest:
            told = f"{nbytes / 1e6:.2f} MB or less, the smallest that was measured"
        else:
            told = f"{nbytes / 1e6:.1f} MB"
        rows.append([ranks, told])
    yield from markdown(["ranks", "the arena pays from"], rows)
    yield ""


def _statements(result: dict[str, Any]) -> Iterator[str]:
    ours = "mmformat-arena"
    if len(found := points(result, "bytes", ours)) > 2:
        large = [(at, each["median"]) for at, each in found if at >= 2**23] or [
            (at, each["median"]) for at, each in found
        ]
        yield (
            f"bytes: from {large[0][0] / 2**20:g} to {large[-1][0] / 2**20:g} MiB the cost of a "
            f"put grows as the {_slope(large):.2f}th power of the bytes (1 is linear)."
        )
    if len(found := points(result, "ranks", ours)) > 1:
        first, last = found[0][1]["median"], found[-1][1]["median"]
        yield (
            f"ranks: a put with {found[-1][0]:g} ranks costs {last / first:.2f} times what it "
            f"costs with {found[0][0]:g}, and every rank's socket gets the handle."
        )
    if len(found := points(result, "items", ours)) > 1:
        (few, least), (many, most) = found[0], found[-1]
        each_ns = (most["median"] - least["median"]) / (many - few)
        yield f"items: each further item of 64 KiB costs {each_ns / 1e3:.1f} microseconds."
    drift = _drift(points(result, "requests", ours))
    if drift is not None:
        last, ratio = drift
        yield (
            f"requests so far: requests {last[0]:g} to {last[1]:g} cost {ratio:.2f} times what "
            "requests 101 to 1,000 cost."
        )


def _drift(
    found: Sequence[tuple[float, dict[str, Any]]],
) -> tuple[tuple[float, float], float] | None:
    early = [value for at, each in found if 100 < at <= 1000 for value in each["samples"]]
    if not early or found[-1][0] <= 1000:
        return None
    early.sort()
    return (found[-2][0] + 1, found[-1][0]), found[-1][1]["median"] / early[len(early) // 2]


def _slope(found: Sequence[tuple[float, float]]) -> float:
    x = [math.log(at) for at, _ in found]
    y = [math.log(cost) for _, cost in found]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    over = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    return over / sum((a - mean_x) ** 2 for a in x)


_COLOURS: Final = {
    "mmformat-arena": "#1f6f8b",
    "pickle5": "#d08770",
    "pickle5-oob": "#8f5e99",
    "memcpy": "#b0a060",
}
_LABELS: Final = {
    "bytes": ("MiB of one item", 2**20),
    "ranks": ("ranks, 16 MiB", 1),
    "items": ("items of 64 KiB in a request", 1),
    "requests": ("requests so far, 256 KiB each", 1),
}
_COLUMNS: Final = 3


def plot_growth(result: dict[str, Any], path: Path) -> None:
    """Draw a panel for each axis, and one of the ratio to pickle by size, and write it as PNG.

    Raises
    ------
    MissingExtraError
        When matplotlib is not installed.
    """
    axes = axes_of(result)
    has_knee = any(axis.startswith("knee") for axis in axes)
    count = len(axes) + has_knee
    rows = -(-count // _COLUMNS)
    figure = figure_class()(figsize=(11, 3.1 * rows), layout="constrained")
    panels = figure.subplots(rows, _COLUMNS, squeeze=False).flat
    for axis in axes:
        _cost(next(panels), result, axis)
    if has_knee:
        _ratio(next(panels), result)
    for rest in panels:
        rest.set_visible(False)
    figure.suptitle(f"How cost grows, medians with quartiles\n{machine_of(result)}", fontsize=10)
    save(figure, path)


def _cost(panel: Any, result: dict[str, Any], axis: str) -> None:
    label, scale = _LABELS.get(axis, ("MiB", 2**20))
    titles = {each["name"]: each["title"] for each in result["arms"]}
    for method, colour in _COLOURS.items():
        found = points(result, axis, method)
        if not found:
            continue
        x = [at / scale for at, _ in found]
        panel.plot(x, [each["median"] / 1e6 for _, each in found], "o-", ms=3, lw=1, color=colour,
                   label=titles[method])  # fmt: skip
        low, high = ([each[name] / 1e6 for _, each in found] for name in ("q1", "q3"))
        panel.fill_between(x, low, high, color=colour, alpha=0.2, lw=0)
    logarithmic(panel.xaxis)
    logarithmic(panel.yaxis)
    panel.set_xlabel(label, fontsize=7)
    panel.set_ylabel("ms", fontsize=7)
    panel.tick_params(labelsize=7)
    panel.grid(True, which="both", lw=0.2)
    panel.set_title(title_of(axis), fontsize=9, loc="left")
    panel.legend(fontsize=6)


def _ratio(panel: Any, result: dict[str, Any]) -> None:
    found = knees(result)
    for shade, axis in enumerate(axis for axis in axes_of(result) if axis.startswith("knee")):
        ours, theirs = (
            {at: each["median"] for at, each in points(result, axis, method)}
            for method in ("mmformat-arena", "pickle5-oob")
        )
        sizes = sorted(set(ours) & set(theirs))
        ranks = axis.partition(", ")[2]
        knee = found.get(ranks)
        told = "never" if knee is None else f"{knee / 1e6:.1f} MB"
        panel.plot(
            [size / 2**20 for size in sizes],
            [ours[size] / theirs[size] for size in sizes],
            "o-",
            ms=3,
            lw=1,
            color=str(0.7 - 0.2 * shade),
            label=f"{ranks}: pays from {told}",
        )
    panel.axhline(1, color="#bf616a", lw=1)
    logarithmic(panel.xaxis)
    logarithmic(panel.yaxis)
    panel.set_xlabel("MiB", fontsize=7)
    panel.set_ylabel("arena / pickle 5 out-of-band", fontsize=7)
    panel.set_title("below 1 the arena is faster", fontsize=9, loc="left")
    panel.tick_params(labelsize=7)
    panel.grid(True, which="both", lw=0.2)
    panel.legend(fontsize=6)
