"""Join results into one Markdown text: what we lose, ratios with both sides, and every table."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.report.growth import growth_section, knees, plot_growth
from benchmarks.report.links import links_section, plot_links
from benchmarks.report.plots import plot
from benchmarks.report.read import read_result
from benchmarks.report.tables import (
    arm_title,
    lost_rows,
    markdown,
    payload_tables,
    ratio_rows,
)
from benchmarks.scenarios import scenario

__all__ = ["write_report"]

_HEAD: Final = """\
# Benchmarks

<!-- made by `python -m benchmarks report` from the committed results -->

Every number here is the median of raw samples that are kept in the results' JSON files, with the
quartiles and the number of samples beside it. The payloads are random normal values, or a
photograph's patches where it says so, never zeros, and other bytes in each round. Every tensor
that arrived was compared by hash, outside the clock. The methods take turns, round after round; in
the fan-out each has processes of its own.
"""

_ORDER: Final = (
    "strategies", "fanout", "growth", "put", "codec", "materialize", "detect", "compression",
    "legacy", "counts", "placement",
)  # fmt: skip


_PLOTS: Final = {"growth": plot_growth, "compression": plot_links}
"""Scenarios with pictures of their own."""


def write_report(
    paths: Sequence[Path], *, plots: Path | None = None, beside: Path | None = None
) -> str:
    """Return the report of results as Markdown.

    Parameters
    ----------
    paths : sequence of path
        Files that ``python -m benchmarks ... --json FILE`` wrote.
    plots : path, optional
        A folder for the PNG pictures; none are drawn when omitted.
    beside : path, optional
        The folder of the report, from which the pictures are named.

    Raises
    ------
    MMFormatError
        When a file is no result.
    MissingExtraError
        When pictures are wanted and matplotlib is not installed.
    """
    results = [(path, read_result(path)) for path in paths]
    results = [each for each in results if each[1]["scenario"] in _ORDER]
    results.sort(key=lambda each: (_ORDER.index(each[1]["scenario"]), each[0].stem))
    lines = [_HEAD]
    for name in dict.fromkeys(result["scenario"] for _, result in results):
        lines.append(f"* **{name}** (`python -m benchmarks {name}`): {scenario(name).about}.")
    lines += [
        "",
        "Each takes `--json FILE`; `python -m benchmarks report FILE...` makes this page.",
        "",
    ]
    lines += _losses([result for _, result in results])
    for path, result in results:
        lines += _section(path, result)
        if plots is not None and scenario(result["scenario"]).metric:
            picture = plots / f"{path.stem}.png"
            draw = _PLOTS.get(result["scenario"], plot)
            draw(result, picture)
            name = os.path.relpath(picture, beside or Path())
            lines += [f"![{path.stem}]({name})", ""]
    return "\n".join(lines).rstrip() + "\n"


def _losses(results: list[dict[str, Any]]) -> Iterator[str]:
    yield "## Where something else is faster"
    yield ""
    rows = [
        row for result in results if result["scenario"] != "growth" for row in lost_rows(result)
    ]
    if not rows:
        yield "Nowhere in these results, which is no proof that there is no such place."
    else:
        columns = ("cell", "faster", "its ms", "ours, ms", "ours over it")
        yield from markdown(columns, rows)
    yield ""
    for result in results:
        if result["scenario"] == "growth":
            for ranks, nbytes in knees(result).items():
                told = "at any size measured" if nbytes is None else f"under {nbytes / 1e6:.1f} MB"
                yield f"* With {ranks}, pickle 5 out-of-band is faster {told} (growth)."
            yield ""


def _section(path: Path, result: dict[str, Any]) -> Iterator[str]:
    yield f"## {path.stem}"
    yield ""
    if result["scenario"] == "strategies":
        yield "The table, beside what was estimated and what was aimed at, is in"
        yield "[strategies.md](strategies.md)."
        yield ""
        return
    yield from _environment(result)
    if result["scenario"] == "growth":
        yield from growth_section(result)
        return
    rows = ratio_rows(result)
    if rows:
        ours = scenario(result["scenario"]).ours
        yield f"### Beside {arm_title(result, ours)}"
        yield ""
        columns = ("payload", "other", "its ms (quartiles)", "ours, ms", "it over ours")
        yield from markdown(columns, rows)
        yield ""
    yield "### All arms"
    yield ""
    yield from payload_tables(result)
    if result["scenario"] == "compression":
        yield from links_section(result)
    notes = [each for each in result["arms"] if each["note"]]
    if notes:
        yield "Arms:"
        yield ""
        yield from (f"* {each['title']}: {each['note']}." for each in notes)
        yield ""
    for name, reason in result["missing"].items():
        yield f"Without `{name}`: {reason}."
        yield ""


def _environment(result: dict[str, Any]) -> Iterator[str]:
    found = result["environment"]
    packages = ", ".join(f"{name} {version}" for name, version in found["packages"].items())
    load = ", ".join(f"{value:.1f}" for value in found["load"])
    settings = ", ".join(
        f"{name} {value}" for name, value in result["settings"].items() if value is not None
    )
    yield (
        f"{found['time_utc']}; {found['cpu']}, {found['cores_usable']} cores, "
        f"{found['memory_nbytes'] / 2**30:.0f} GiB; Linux {found['kernel']}; "
        f"Python {found['python']}; {packages}; huge pages {found['transparent_hugepages']}, for "
        f"shared memory {found['transparent_hugepages_shmem']}; load at the start {load}; "
        f"settings: {settings}."
    )
    yield ""
