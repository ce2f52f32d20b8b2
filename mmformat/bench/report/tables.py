"""The tables of the report, each a list of Markdown lines made from one result."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

__all__ = ["METRIC", "OURS", "cells_of", "lost_rows", "markdown", "payload_tables", "ratio_rows"]

METRIC: Final = {"codec": "touched_ns", "fanout": "touched_ns", "put": "put_ns"}
"""What the arms of a scenario are compared by."""

OURS: Final = {"codec": "mmformat", "fanout": "mmformat-arena", "put": "arena-put"}
"""The arm that stands for this library where one is named."""

_CONTROLS: Final = frozenset({"memcpy", "memcpy-slice", "touch"})

_COLUMNS: Final = {
    "codec": (
        ("encode", "encode_ns"), ("decode", "decode_ns"), ("touch pages", "touch_ns"),
        ("**all**", "touched_ns"), ("all, cold", "cold_touched_ns"),
    ),
    "fanout": (
        ("encoded", "encode_ns"), ("sent", "sent_ns"), ("last returned", "returned_ns"),
        ("**last touched**", "touched_ns"),
    ),
    "put": (("**put**", "put_ns"),),
}  # fmt: skip


def cells_of(result: dict[str, Any], payload: str) -> list[dict[str, Any]]:
    """Return a payload's cells, the fastest first."""
    metric = METRIC[result["scenario"]]
    cells = [cell for cell in result["cells"] if cell["payload"] == payload]
    return sorted(cells, key=lambda cell: float(cell["metrics"][metric]["median"]))


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a Markdown table whose columns after the first are aligned to the right."""
    lines = ["| " + " | ".join(columns) + " |", "|---" + "|---:" * (len(columns) - 1) + "|"]
    return lines + ["| " + " | ".join(row) + " |" for row in rows]


def lost_rows(result: dict[str, Any]) -> list[list[str]]:
    """Return a row for each rival that was faster than our arm, the largest loss first."""
    found = []
    for title, ours, others in _compared(result):
        for other in others:
            ratio = _median(result, ours) / _median(result, other)
            if other["arm"] not in _CONTROLS and ratio > 1:
                found.append((ratio, title, other["arm"], ours, other))
    found.sort(key=lambda each: -each[0])
    return [
        [
            f"{result['scenario']}, {title}",
            f"{_title(result, arm)}",
            _spread(result, other),
            _spread(result, ours),
            f"{ratio:.2f}",
        ]
        for ratio, title, arm, ours, other in found
    ]


def ratio_rows(result: dict[str, Any]) -> list[list[str]]:
    """Return a row for each payload and other arm: both medians, and theirs over ours."""
    rows = []
    for title, ours, others in _compared(result):
        for other in others:
            ratio = _median(result, other) / _median(result, ours)
            rows.append(
                [
                    title,
                    _title(result, other["arm"]),
                    _spread(result, other),
                    _spread(result, ours),
                    f"{ratio:.2f}",
                ]
            )
    return rows


def payload_tables(result: dict[str, Any]) -> Iterator[str]:
    """Return the lines of a table for each payload."""
    scenario = result["scenario"]
    metric = METRIC[scenario]
    for payload in result["payloads"]:
        cells = cells_of(result, payload["name"])
        titles = [title for title, _ in _COLUMNS[scenario]]
        columns = ["milliseconds, median", *titles, "IQR", "n", *_extra_columns(scenario)]
        rows = []
        for cell in cells:
            name = _title(result, cell["arm"])
            if cell["arm"].startswith("mmformat") or cell["arm"] == OURS[scenario]:
                name = f"**{name}**"
            if not cell["correct"]:
                name += " (WRONG BYTES)"
            row = [name]
            row += [
                _ms(cell["metrics"][key]["median"]) if key in cell["metrics"] else ""
                for _, key in _COLUMNS[scenario]
            ]
            row += [_ms(cell["metrics"][metric]["iqr"]), str(cell["metrics"][metric]["n"])]
            rows.append([*row, *_extra_cells(scenario, cell, payload)])
        yield f"#### {payload['title']}"
        yield ""
        yield from markdown(columns, rows)
        yield ""


def _extra_columns(scenario: str) -> list[str]:
    if scenario == "put":
        return ["GB/s"]
    if scenario == "fanout":
        return ["message", "PSS held"]
    return ["message", "page faults"]


def _extra_cells(scenario: str, cell: dict[str, Any], payload: dict[str, Any]) -> list[str]:
    metrics = cell["metrics"]
    if scenario == "put":
        return [f"{payload['nbytes'] / metrics['put_ns']['median']:.2f}"]
    message = _nbytes(cell["wire_nbytes"])
    if scenario == "fanout":
        return [message, _nbytes(metrics["pss_nbytes"]["median"])]
    return [message, f"{metrics['faults_count']['median']:.0f}"]


def _compared(
    result: dict[str, Any],
) -> Iterator[tuple[str, dict[str, Any], list[dict[str, Any]]]]:
    name = OURS[result["scenario"]]
    for payload in result["payloads"]:
        cells = cells_of(result, payload["name"])
        for ours in cells:
            if ours["arm"] == name:
                others = [cell for cell in cells if not cell["arm"].startswith("mmformat")]
                yield payload["title"], ours, [cell for cell in others if cell is not ours]


def _title(result: dict[str, Any], arm: str) -> str:
    return next((each["title"] for each in result["arms"] if each["name"] == arm), arm)


def _median(result: dict[str, Any], cell: dict[str, Any]) -> float:
    return float(cell["metrics"][METRIC[result["scenario"]]]["median"])


def _spread(result: dict[str, Any], cell: dict[str, Any]) -> str:
    samples = cell["metrics"][METRIC[result["scenario"]]]
    return f"{_ms(samples['median'])} ({_ms(samples['q1'])}-{_ms(samples['q3'])}, n={samples['n']})"


def _ms(value_ns: float) -> str:
    return f"{value_ns / 1e6:.3f}" if value_ns < 1e7 else f"{value_ns / 1e6:.1f}"


def _nbytes(value: float) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if abs(value) >= size:
            return f"{value / size:.1f} {unit}"
    return f"{value:.0f} B"
