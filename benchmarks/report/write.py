"""Join results into one Markdown text: what we lose, ratios with both sides, and every table."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.payloads import payload
from benchmarks.report.growth import growth_section, knees, plot_growth
from benchmarks.report.links import links_section, plot_links
from benchmarks.report.plots import capital, machine_of, plot
from benchmarks.report.read import read_result
from benchmarks.report.tables import (
    arm_title,
    as_text,
    lost_rows,
    markdown,
    payload_tables,
    ratio_rows,
)
from benchmarks.scenarios import scenario

__all__ = ["folded", "write_report"]

_HEAD: Final = """\
# Benchmarks

<!-- made by `python -m benchmarks report` from the committed results -->

What does it cost to get a request's tensors from the process that made them into every process
that needs them? Each figure here is the median of raw samples that are committed with the
environment they were measured in (`benchmarks/results/`); a test holds this page to them. Methods
take turns, round after round, each in its own processes. Payloads are random normal values or
photographs, never zeros, and differ in each round. Every tensor that arrives is compared by hash,
outside the clock. The clock stops when the last rank has read a byte of every page, so that no
lazy method looks free.

Each section has one picture and its tables, folded. To run a scenario on your machine, from a
checkout: `python -m benchmarks SCENARIO --json FILE`. To measure your own message:
`mmformat bench FILE`.
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
    lines += _short_answer([result for _, result in results])
    lines += _losses([result for _, result in results])
    for name in dict.fromkeys(result["scenario"] for _, result in results):
        described = scenario(name)
        lines += [f"## {capital(described.caption)}", "", f"{capital(described.about)}.", ""]
        lines += [f"`python -m benchmarks {name}`", ""]
        for path, result in results:
            if result["scenario"] == name:
                lines += _picture(path, result, plots=plots, beside=beside)
                lines += _section(path, result)
    return "\n".join(lines).rstrip() + "\n"


_SHORT: Final = (
    "mmformat-arena", "memcpy", "ray", "segment-per-tensor", "msgspec-oob", "pickle5-oob",
    "pickle5",
)  # fmt: skip
_SIZES: Final = ("image-small", "image", "images-8")


def _short_answer(results: list[dict[str, Any]]) -> Iterator[str]:
    """Return a table of the fan-out alone: milliseconds by method and size."""
    found: dict[tuple[str, str], str] = {}
    titles: dict[str, str] = {}
    ranks = 0
    for result in results:
        if result["scenario"] != "fanout":
            continue
        ranks = result["settings"]["readers"]
        titles |= {each["name"]: each["title"] for each in result["arms"]}
        for cell in result["cells"]:
            median = as_text("_ns", cell["metrics"]["touched_ns"]["median"])
            found.setdefault((cell["arm"], cell["payload"]), median)
    methods = [name for name in _SHORT if name in titles]
    if not methods:
        return
    sizes = [size for size in _SIZES if any((name, size) in found for name in methods)]
    yield "## The short answer"
    yield ""
    yield "Milliseconds from the producer's call until the last of"
    yield f"{ranks} ranks has read every page:"
    yield ""
    columns = ["", *(payload(size).title for size in sizes)]
    rows = [
        [
            f"**{titles[name]}**" if name.startswith("mmformat") else titles[name],
            *(found.get((name, size), "") for size in sizes),
        ]
        for name in methods
    ]
    yield from markdown(columns, rows)
    yield ""


def _picture(
    path: Path, result: dict[str, Any], *, plots: Path | None, beside: Path | None
) -> Iterator[str]:
    if plots is None or not scenario(result["scenario"]).metric:
        return
    picture = plots / f"{path.stem}.png"
    _PLOTS.get(result["scenario"], plot)(result, picture)
    yield f"![{path.stem}]({os.path.relpath(picture, beside or Path())})"
    yield ""


def folded(title: str, lines: Iterable[str]) -> Iterator[str]:
    """Return lines under a title that opens them; on GitHub and on the site alike."""
    yield f'<details markdown="1"><summary>{title}</summary>'
    yield ""
    yield from lines
    yield "</details>"
    yield ""


def _losses(results: list[dict[str, Any]]) -> Iterator[str]:
    yield "## Where something else is faster"
    yield ""
    for result in results:
        if result["scenario"] == "growth":
            for ranks, nbytes in knees(result).items():
                told = "at any size measured" if nbytes is None else f"under {nbytes / 1e6:.1f} MB"
                yield f"* With {ranks}, pickle 5 out-of-band is faster {told}."
            yield ""
    rows = [
        row for result in results if result["scenario"] != "growth" for row in lost_rows(result)
    ]
    if not rows:
        yield "Nowhere in these results, which is no proof that there is no such place."
        yield ""
        return
    columns = ("cell", "faster", "its ms", "mmformat, ms", "mmformat / it")
    yield from folded(f"{len(rows)} cells", [*markdown(columns, rows), ""])


def _section(path: Path, result: dict[str, Any]) -> Iterator[str]:
    where = machine_of(result)
    if result["scenario"] == "strategies":
        yield f"{where}. Its table, the estimates and the goals: [strategies.md](strategies.md)."
        yield ""
        return
    if result["scenario"] == "growth":
        yield from folded(f"Tables: {where}", [*growth_section(result), *_environment(result)])
        return
    if rows := ratio_rows(result):
        ours = arm_title(result, scenario(result["scenario"]).ours)
        columns = ("payload", "other", "its ms (quartiles)", "mmformat, ms", "it / mmformat")
        yield from folded(f"Beside {ours}: {where}", [*markdown(columns, rows), ""])
    yield from folded(f"All figures: {path.stem}, {where}", _everything(result))


def _everything(result: dict[str, Any]) -> Iterator[str]:
    yield from payload_tables(result)
    if result["scenario"] == "compression":
        yield from links_section(result)
    notes = [each for each in result["arms"] if each["note"]]
    if notes:
        yield "Methods:"
        yield ""
        yield from (f"* {each['title']}: {each['note']}." for each in notes)
        yield ""
    for name, reason in result["missing"].items():
        yield f"Without `{name}`: {reason}."
        yield ""
    yield from _environment(result)


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
