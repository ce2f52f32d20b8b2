"""Pictures of growth: cost along each axis on logarithmic scales, and where our way wins."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from mmformat.bench.report.growth import axes_of, knees, points
from mmformat.bench.report.plots import figure_class, save

__all__ = ["plot_growth"]

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
    figure = figure_class()(figsize=(11, 3.1 * rows))
    panels = figure.subplots(rows, _COLUMNS, squeeze=False).flat
    for axis in axes:
        _cost(next(panels), result, axis)
    if has_knee:
        _ratio(next(panels), result)
    for rest in panels:
        rest.set_visible(False)
    environment = result["environment"]
    figure.suptitle(
        f"growth: {environment['cpu']}, {environment['cores_usable']} cores, "
        f"{environment['time_utc'][:10]}; medians with quartiles",
        fontsize=10,
    )
    figure.tight_layout()
    save(figure, path)


def _cost(panel: Any, result: dict[str, Any], axis: str) -> None:
    label, scale = _LABELS.get(axis, ("MiB", 2**20))
    titles = {each["name"]: each["title"] for each in result["arms"]}
    for arm, colour in _COLOURS.items():
        found = points(result, axis, arm)
        if not found:
            continue
        x = [at / scale for at, _ in found]
        panel.plot(x, [each["median"] / 1e6 for _, each in found], "o-", ms=3, lw=1, color=colour,
                   label=titles[arm])  # fmt: skip
        low, high = ([each[name] / 1e6 for _, each in found] for name in ("q1", "q3"))
        panel.fill_between(x, low, high, color=colour, alpha=0.2, lw=0)
    _logarithmic(panel)
    panel.set_xlabel(label, fontsize=7)
    panel.set_ylabel("ms", fontsize=7)
    panel.tick_params(labelsize=7)
    panel.grid(True, which="both", lw=0.2)
    title = f"last touched, {axis.partition(', ')[2]}" if axis.startswith("knee") else axis
    panel.set_title(title, fontsize=9, loc="left")
    panel.legend(fontsize=6)


def _ratio(panel: Any, result: dict[str, Any]) -> None:
    found = knees(result)
    for shade, axis in enumerate(axis for axis in axes_of(result) if axis.startswith("knee")):
        ours, theirs = (
            {at: each["median"] for at, each in points(result, axis, arm)}
            for arm in ("mmformat-arena", "pickle5-oob")
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
    _logarithmic(panel)
    panel.set_xlabel("MiB", fontsize=7)
    panel.set_title("arena over pickle 5 out-of-band; below 1 we win", fontsize=9, loc="left")
    panel.tick_params(labelsize=7)
    panel.grid(True, which="both", lw=0.2)
    panel.legend(fontsize=6)


def _logarithmic(panel: Any) -> None:
    from matplotlib.ticker import NullFormatter, StrMethodFormatter

    for scale, axis in ((panel.set_xscale, panel.xaxis), (panel.set_yscale, panel.yaxis)):
        scale("log")
        axis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axis.set_minor_formatter(NullFormatter())
