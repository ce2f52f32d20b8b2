"""Pictures of the results: a median bar for each method, with every raw sample over it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from benchmarks.report.tables import cells_of
from benchmarks.scenarios import Scenario, scenario
from mmformat.errors import MissingExtraError

if TYPE_CHECKING:
    from benchmarks.quick import Line

__all__ = ["CONTROLS", "OTHERS", "OURS", "figure_class", "plot", "plot_lines", "save"]

OURS: Final = "#1f6f8b"
OTHERS: Final = "#b8b8b8"
CONTROLS: Final = "#e3d7a8"
"""Colours: a way of this library, a rival, and what the bytes themselves cost."""

_ROW_INCHES: Final = 0.28


def plot(result: dict[str, Any], path: Path) -> None:
    """Draw one result, a panel for each payload, and write it as PNG.

    Raises
    ------
    MissingExtraError
        When matplotlib is not installed.
    """
    payloads = result["payloads"]
    counts = [len(cells_of(result, payload["name"])) for payload in payloads]
    figure = figure_class()(figsize=(9, sum(counts) * _ROW_INCHES + 1.1 * len(counts)))
    panels = figure.subplots(
        len(payloads), 1, squeeze=False, gridspec_kw={"height_ratios": [n + 2 for n in counts]}
    )
    for axes, payload in zip(panels[:, 0], payloads, strict=True):
        _panel(axes, result, payload)
    environment = result["environment"]
    figure.suptitle(
        f"{result['scenario']}: {environment['cpu']}, {environment['cores_usable']} cores, "
        f"{environment['time_utc'][:10]}",
        fontsize=10,
    )
    figure.tight_layout()
    save(figure, path)


def figure_class() -> Any:
    """Return matplotlib's Figure, which needs no display.

    Raises
    ------
    MissingExtraError
        When matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError(
            "expected the module 'matplotlib', got none installed", hint="pip install matplotlib"
        ) from error
    return Figure


def save(figure: Any, path: Path) -> None:
    """Write a figure as PNG, with nothing in it that changes from one run to the next."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, metadata={"Software": None})


def _panel(axes: Any, result: dict[str, Any], payload: dict[str, Any]) -> None:
    described = scenario(result["scenario"])
    metric = described.metric
    cells = cells_of(result, payload["name"])[::-1]
    titles = {each["name"]: each["title"] for each in result["arms"]}
    scale = 1e6 if metric.endswith("_ns") else 1.0
    for row, cell in enumerate(cells):
        samples = cell["metrics"][metric]
        median_ms = samples["median"] / scale
        axes.barh(row, median_ms, color=_colour(described, cell["arm"]), zorder=1)
        values = [value / scale for value in samples["samples"]]
        axes.plot(values, [row] * len(values), "|", color="#333333", alpha=0.5, ms=7, zorder=2)
        axes.annotate(f" {median_ms:.3g} ms", (max(values), row), va="center", fontsize=7, zorder=3)
    axes.set_yticks(range(len(cells)), [titles[cell["arm"]] for cell in cells], fontsize=7)
    # A logarithmic axis: from 0.1 ms to a second, with every method still to be seen.
    axes.set_xscale("log")
    axes.margins(x=0.15)
    axes.tick_params(axis="x", labelsize=7)
    axes.set_xlabel("milliseconds, logarithmic; a bar is the median, a tick a sample", fontsize=7)
    axes.set_title(payload["title"], fontsize=9, loc="left")


def _colour(described: Scenario, method: str) -> str:
    if described.is_ours(method):
        return OURS
    return CONTROLS if method in described.controls else OTHERS


def plot_lines(lines: Sequence[Line], path: Path) -> None:
    """Draw the quick summary: ours, the best rival and the control for each line.

    Raises
    ------
    MissingExtraError
        When matplotlib is not installed.
    """
    figure = figure_class()(figsize=(9, 0.55 * len(lines) + 1.2))
    axes = figure.subplots()
    for row, line in enumerate(reversed(lines)):
        bars = ((0.25, line.control, CONTROLS), (0, line.other, OTHERS), (-0.25, line.ours, OURS))
        for shift, value, colour in bars:
            axes.barh(row + shift, value, height=0.25, color=colour)
    axes.set_yticks(range(len(lines)), [line.what for line in reversed(lines)], fontsize=7)
    axes.set_xscale("log")
    axes.set_xlabel(
        "milliseconds, logarithmic: the control, the best rival, ours (blue)", fontsize=8
    )
    figure.tight_layout()
    save(figure, path)
