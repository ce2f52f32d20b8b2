"""Join results into one Markdown text: what we lose, ratios with both sides, and every table."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from mmformat.bench.report.plots import plot
from mmformat.bench.report.tables import (
    OURS,
    lost_rows,
    markdown,
    payload_tables,
    ratio_rows,
)
from mmformat.bench.results import load

__all__ = ["write_report"]

_HEAD: Final = """\
# Benchmarks

<!-- made by `mmformat bench report` from the committed results; edit those or the report's code -->

Every number here is the median of raw samples that are kept in the results' JSON files, with the
quartiles and the number of samples beside it. The payloads are random normal values, or a
photograph's patches where it says so, never zeros, and other bytes in each round. Every tensor
that arrived was compared by hash, in every round, outside the clock. The arms take turns, round
after round; in the fan-out each has processes of its own.

* **codec**: encode and decode in one process. *all* is encode, decode, and one byte of every page
  read. Small payloads run several times in a turn; *cold* is the first of these, after other arms'
  work.
* **put**: `Arena.put` beside one copy of the same bytes into the same pages, touched beforehand.
* **fanout**: from the producer's call until the last reader process holds torch tensors (*last
  returned*) and has read a byte of every page (*last touched*). *PSS held* is what the producer and
  all readers together hold more than before, each shared page counted once; it contains the payload
  itself and, for ours, the whole arena.

Run them at home: `mmformat bench codec`, `mmformat bench put`, `mmformat bench fanout`, each with
`--json FILE`; then `mmformat bench report FILE...`.
"""

_SCENARIOS: Final = ("fanout", "put", "codec")


def write_report(
    paths: Sequence[Path], *, plots: Path | None = None, beside: Path | None = None
) -> str:
    """Return the report of results as Markdown.

    Parameters
    ----------
    paths : sequence of path
        Files that ``mmformat bench ... --json FILE`` wrote.
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
    results = [(path, load(path)) for path in paths]
    results.sort(key=lambda each: _SCENARIOS.index(each[1]["scenario"]))
    lines = [_HEAD, *_losses([result for _, result in results])]
    for path, result in results:
        lines += _section(path, result)
        if plots is not None:
            picture = plots / f"{path.stem}.png"
            plot(result, picture)
            name = os.path.relpath(picture, beside or Path())
            lines += [f"![{path.stem}]({name})", ""]
    return "\n".join(lines).rstrip() + "\n"


def _losses(results: list[dict[str, Any]]) -> Iterator[str]:
    yield "## Where something else is faster"
    yield ""
    rows = [row for result in results for row in lost_rows(result)]
    if not rows:
        yield "Nowhere in these results, which is no proof that there is no such place."
    else:
        columns = ("cell", "faster", "its ms", "ours, ms", "ours over it")
        yield from markdown(columns, rows)
    yield ""


def _section(path: Path, result: dict[str, Any]) -> Iterator[str]:
    yield f"## {path.stem}"
    yield ""
    yield from _environment(result)
    rows = ratio_rows(result)
    if rows:
        ours = OURS[result["scenario"]]
        title = next(each["title"] for each in result["arms"] if each["name"] == ours)
        yield f"### Beside {title}"
        yield ""
        columns = ("payload", "other", "its ms (quartiles)", "ours, ms", "it over ours")
        yield from markdown(columns, rows)
        yield ""
    yield "### All arms"
    yield ""
    yield from payload_tables(result)
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
