"""Pictures of the results: a dot for each method's median, with its quartiles and every sample."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from benchmarks.report.tables import cells_of
from benchmarks.scenarios import Scenario, scenario
from mmformat.errors import MissingExtraError

if TYPE_CHECKING:
    from benchmarks.quick import Line

__all__ = [
    "CONTROLS",
    "OTHERS",
    "OURS",
    "as_label",
    "capital",
    "figure_class",
    "logarithmic",
    "machine_of",
    "plot",
    "plot_lines",
    "save",
]

OURS: Final = "#1f6f8b"
OTHERS: Final = "#777777"
CONTROLS: Final = "#b09a4a"
"""Colours: a way of this library, a rival, and what the bytes themselves cost."""

_ROW_INCHES: Final = 0.2


def plot(result: dict[str, Any], path: Path) -> None:
    """Draw one result, a panel for each payload, and write it as PNG.

    Raises
    ------
    MissingExtraError
        When matplotlib is not installed.
    """
    payloads = result["payloads"]
    counts = [len(cells_of(result, payload["name"])) for payload in payloads]
    height = sum(counts) * _ROW_INCHES + 0.55 * len(counts) + 0.7
    figure = figure_class()(figsize=(9, height), layout="constrained")
    panels = figure.subplots(
        len(payloads), 1, squeeze=False, gridspec_kw={"height_ratios": [n + 1 for n in counts]}
    )
    for axes, payload in zip(panels[:, 0], payloads, strict=True):
        _panel(axes, result, payload)
    panels[-1, 0].set_xlabel(
        "milliseconds, logarithmic: a dot is the median, a line the middle half, a tick a sample",
        fontsize=7,
    )
    figure.suptitle(
        f"{capital(scenario(result['scenario']).caption)}\n{machine_of(result)}", fontsize=9
    )
    save(figure, path)


def machine_of(result: dict[str, Any]) -> str:
    """Return the processor, its cores and the date of a result."""
    found = result["environment"]
    return f"{found['cpu']}, {found['cores_usable']} cores, {found['time_utc'][:10]}"


def capital(text: str) -> str:
    """Return a caption as a heading.

    Examples
    --------
    >>> capital("one producer, N rank processes")
    'One producer, N rank processes'
    """
    return text[:1].upper() + text[1:]


def as_label(value_ms: float) -> str:
    """Return milliseconds with three digits, as they stand beside a dot or a bar.

    Examples
    --------
    >>> as_label(0.05874), as_label(8.78), as_label(1131.2)
    ('0.0587', '8.78', '1,131')
    """
    return f"{value_ms:,.0f}" if value_ms >= 1000 else f"{value_ms:.3g}"


def logarithmic(axis: Any) -> None:
    """Make an x or y axis logarithmic, with the plain numbers 1, 2 and 5 of each decade."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axis.axes.set(**{f"{axis.axis_name}scale": "log"})
    low, high = sorted(axis.get_view_interval())
    few = high / max(low, 1e-9) < 200
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if few else (1,)))
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter(NullFormatter())


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
        colour = _colour(described, cell["arm"])
        first, median_ms, third = (samples[name] / scale for name in ("q1", "median", "q3"))
        values = [value / scale for value in samples["samples"]]
        axes.plot(values, [row] * len(values), "|", color="#999999", alpha=0.6, ms=5, zorder=1)
        axes.plot([first, third], [row, row], color=colour, lw=3, alpha=0.6, zorder=2)
        axes.plot([median_ms], [row], "o", color=colour, ms=6, zorder=3)
        axes.annotate(  # in a column, so that no outlier pushes it away
            as_label(median_ms),
            (1.01, row),
            xycoords=("axes fraction", "data"),
            va="center",
            fontsize=7,
            color=colour if colour != CONTROLS else "#333333",
        )
    axes.set_yticks(range(len(cells)), [titles[cell["arm"]] for cell in cells], fontsize=7)
    axes.set_ylim(-0.6, len(cells) - 0.4)
    axes.margins(x=0.04)
    logarithmic(axes.xaxis)
    axes.tick_params(axis="x", labelsize=7)
    axes.grid(axis="x", lw=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(f"{payload['title']}, ms", fontsize=8, loc="left")


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
    figure = figure_class()(figsize=(9, 0.42 * len(lines) + 0.9), layout="constrained")
    axes = figure.subplots()
    for row, line in enumerate(reversed(lines)):
        for value, colour in ((line.control, CONTROLS), (line.other, OTHERS), (line.ours, OURS)):
            axes.plot([value], [row], "o", color=colour, ms=7)
        told = f"{as_label(line.ours)}; {line.rival or 'nothing else'} {as_label(line.other)}"
        axes.annotate(
            told, (1.01, row), xycoords=("axes fraction", "data"), va="center", fontsize=7
        )
    axes.set_yticks(range(len(lines)), [line.what for line in reversed(lines)], fontsize=7)
    logarithmic(axes.xaxis)
    axes.grid(axis="x", lw=0.3)
    axes.set_xlabel(
        "milliseconds, logarithmic: mmformat (blue), the fastest other (grey), the control (sand)",
        fontsize=8,
    )
    save(figure, path)
