"""The tables of the report, each a list of Markdown lines made from one result."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks.scenarios import scenario

__all__ = [
    "arm_title",
    "as_text",
    "cells_of",
    "lost_rows",
    "markdown",
    "payload_tables",
    "ratio_rows",
    "spread",
]


def cells_of(result: dict[str, Any], payload: str) -> list[dict[str, Any]]:
    """Return a payload's cells, the fastest first."""
    cells = [cell for cell in result["cells"] if cell["payload"] == payload]
    return sorted(cells, key=lambda cell: _median(result, cell)) if _metric(result) else cells


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a Markdown table whose columns after the first are aligned to the right."""
    lines = ["| " + " | ".join(columns) + " |", "|---" + "|---:" * (len(columns) - 1) + "|"]
    return lines + ["| " + " | ".join(row) + " |" for row in rows]


def lost_rows(result: dict[str, Any]) -> list[list[str]]:
    """Return a row for each rival that was faster than our method, the largest loss first."""
    found = []
    controls = scenario(result["scenario"]).controls
    for title, ours, others in _compared(result):
        for other in others:
            ratio = _median(result, ours) / _median(result, other)
            if other["arm"] not in controls and ratio > 1:
                found.append((ratio, title, other, ours))
    found.sort(key=lambda each: -each[0])
    return [
        [
            f"{result['scenario']}, {title}",
            arm_title(result, other["arm"]),
            spread(result, other),
            spread(result, ours),
            f"{ratio:.2f}",
        ]
        for ratio, title, other, ours in found
    ]


def ratio_rows(result: dict[str, Any]) -> list[list[str]]:
    """Return a row for each payload and other method: both medians, and theirs over ours."""
    rows = []
    for title, ours, others in _compared(result):
        for other in others:
            ratio = _median(result, other) / _median(result, ours)
            rows.append(
                [
                    title,
                    arm_title(result, other["arm"]),
                    spread(result, other),
                    spread(result, ours),
                    f"{ratio:.2f}",
                ]
            )
    return rows


def payload_tables(result: dict[str, Any]) -> Iterator[str]:
    """Return the lines of a table for each payload."""
    described = scenario(result["scenario"])
    for payload in result["payloads"]:
        cells = cells_of(result, payload["name"])
        columns = described.columns or tuple(
            (name, name.rpartition("_")[0] or "time")
            for name in dict.fromkeys(name for cell in cells for name in cell["metrics"])
        )
        columns = tuple(
            (metric, title)
            for metric, title in columns
            if any(_has(cell, metric) for cell in cells)
        )
        titles = [_title(metric, title, described.metric) for metric, title in columns]
        judged = ["IQR", "n"] if described.metric else []
        rows = []
        for cell in cells:
            row = [_name(result, cell)]
            row += [_value(cell, metric) for metric, _ in columns]
            if described.metric:
                samples = cell["metrics"][described.metric]
                row += [as_text(described.metric, samples["iqr"]), str(samples["n"])]
            rows.append(row)
        yield f"**{payload['title']}**"
        yield ""
        yield from markdown(["median", *titles, *judged], rows)
        yield ""


def as_text(metric: str, value: float) -> str:
    """Return a value as people read it, by the unit that ends the metric's name."""
    if metric.endswith("/ns"):
        return f"{value:.2f}"
    if metric.endswith("_ns") or metric == "ns":
        return _ms(value / 1e6)
    if metric.endswith("_ms"):
        return _ms(value)
    if metric.endswith("nbytes"):
        return _nbytes(value)
    return f"{value:,.0f}" if value == round(value) else f"{value:,.2f}"


def spread(result: dict[str, Any], cell: dict[str, Any]) -> str:
    """Return the median, the quartiles and the number of samples of a cell."""
    metric = _metric(result)
    samples = cell["metrics"][metric]
    first, third = (as_text(metric, samples[name]) for name in ("q1", "q3"))
    return f"{as_text(metric, samples['median'])} ({first}-{third}, n={samples['n']})"


def arm_title(result: dict[str, Any], method: str) -> str:
    """Return what a method is called in a table."""
    return next((str(each["title"]) for each in result["arms"] if each["name"] == method), method)


def _compared(
    result: dict[str, Any],
) -> Iterator[tuple[str, dict[str, Any], list[dict[str, Any]]]]:
    described = scenario(result["scenario"])
    for payload in result["payloads"]:
        cells = cells_of(result, payload["name"])
        for ours in cells:
            if ours["arm"] == described.ours:
                others = [cell for cell in cells if not described.is_ours(cell["arm"])]
                yield payload["title"], ours, others


def _metric(result: dict[str, Any]) -> str:
    return scenario(result["scenario"]).metric


def _median(result: dict[str, Any], cell: dict[str, Any]) -> float:
    return float(cell["metrics"][_metric(result)]["median"])


def _name(result: dict[str, Any], cell: dict[str, Any]) -> str:
    name = arm_title(result, cell["arm"])
    if scenario(result["scenario"]).is_ours(cell["arm"]):
        name = f"**{name}**"
    return name if cell["correct"] else f"{name} (WRONG BYTES)"


def _title(metric: str, title: str, judged: str) -> str:
    unit = " ms" if metric.endswith(("_ns", "_ms")) or metric == "ns" else ""
    return f"**{title}{unit}**" if metric == judged else f"{title}{unit}"


def _has(cell: dict[str, Any], metric: str) -> bool:
    return bool(cell["wire_nbytes"]) if metric == "wire_nbytes" else metric in cell["metrics"]


def _value(cell: dict[str, Any], metric: str) -> str:
    if not _has(cell, metric):
        return ""
    if metric == "wire_nbytes":
        return as_text(metric, cell["wire_nbytes"])
    return as_text(metric, cell["metrics"][metric]["median"])


def _ms(value: float) -> str:
    return f"{value:.3f}" if value < 10 else f"{value:.1f}"


def _nbytes(value: float) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if abs(value) >= size:
            return f"{value / size:.1f} {unit}"
    return f"{value:.0f} B"
