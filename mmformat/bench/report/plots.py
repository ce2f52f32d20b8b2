"""Pictures of the results: a median bar for each arm, with every raw sample over it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from mmformat.bench.report.tables import METRIC, OURS, cells_of
from mmformat.errors import MissingExtraError

__all__ = ["plot"]

_OURS: Final = "#1f6f8b"
_OTHERS: Final = "#b8b8b8"
_CONTROLS: Final = "#e3d7a8"
_ROW_INCHES: Final = 0.28


def plot(result: dict[str, Any], path: Path) -> None:
    """Draw one result, a panel for each payload, and write it as PNG.

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
    payloads = result["payloads"]
    counts = [len(cells_of(result, payload["name"])) for payload in payloads]
    figure = Figure(figsize=(9, sum(counts) * _ROW_INCHES + 1.1 * len(counts)))
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
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, metadata={"Software": None})


def _panel(axes: Any, result: dict[str, Any], payload: dict[str, Any]) -> None:
    scenario = result["scenario"]
    cells = cells_of(result, payload["name"])[::-1]
    titles = {each["name"]: each["title"] for each in result["arms"]}
    for row, cell in enumerate(cells):
        samples = cell["metrics"][METRIC[scenario]]
        median_ms = samples["median"] / 1e6
        axes.barh(row, median_ms, color=_colour(cell["arm"], scenario), zorder=1)
        values = [value / 1e6 for value in samples["samples"]]
        axes.plot(values, [row] * len(values), "|", color="#333333", alpha=0.5, ms=7, zorder=2)
        axes.annotate(f" {median_ms:.3g} ms", (max(values), row), va="center", fontsize=7, zorder=3)
    axes.set_yticks(range(len(cells)), [titles[cell["arm"]] for cell in cells], fontsize=7)
    # A logarithmic axis: from 0.1 ms to a second, with every arm still to be seen.
    axes.set_xscale("log")
    axes.margins(x=0.15)
    axes.tick_params(axis="x", labelsize=7)
    axes.set_xlabel("milliseconds, logarithmic; a bar is the median, a tick a sample", fontsize=7)
    axes.set_title(payload["title"], fontsize=9, loc="left")


def _colour(arm: str, scenario: str) -> str:
    if arm.startswith("mmformat") or arm == OURS[scenario]:
        return _OURS
    return _CONTROLS if arm.startswith(("memcpy", "touch")) else _OTHERS
