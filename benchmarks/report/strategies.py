"""The strategies' page: measured beside estimated, the goals, and why the two disagree."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.results import load
from benchmarks.strategies.ways import GOALS, WAYS, Goal

__all__ = ["strategies_page"]

_HEAD: Final = """\
# Strategies: who decodes the media, and how the ranks get them

<!-- made by `python -m benchmarks report` from the committed results -->

Who turns a request's images into tensors in a server with tensor-parallel ranks: each rank for
itself, rank 0, which then broadcasts them, or the tokenizer before the ranks see the request? Three
of these were once estimated and never measured. Here each runs for real: a tokenizer process
with its pool, ranks with a single-threaded scheduler loop that also answers a heartbeat every 2 ms,
ZeroMQ from the tokenizer to rank 0 and gloo among the ranks. Ten requests are sent one after the
other (*latency*), then ten at once (*requests/s*, *p50*, *p99*, *CPU*, *blocked*), then ten more
while memory is read (*peak PSS*). No image comes twice, except in the last row, which measures it.
One request of each run is compared by hash in every rank.

*CPU* is the time of tokenizer and ranks together, for one request. *Blocked* is how long the worst
rank's loop did not answer, where that was over 10 ms: the longest silence, and all of them
together. *Moved* is what was sent over sockets, broadcast, and written to shared memory. Each value
is a median over the rounds.

To run it: `python -m benchmarks strategies --json FILE`.
"""

_COLUMNS: Final = (
    ("materialized", "materializations_count", 1.0, "{:.0f}"),
    ("CPU ms", "cpu_ms", 1.0, "{:.0f}"),
    ("latency ms", "latency_ms", 1.0, "{:.0f}"),
    ("requests/s", "throughput_per_s", 1.0, "{:.1f}"),
    ("p50 ms", "p50", 1.0, "{:.0f}"),
    ("p99 ms", "p99", 1.0, "{:.0f}"),
    ("blocked ms", "blocked_longest_ms", 1.0, "{:.0f}"),
    ("in all ms", "blocked_total_ms", 1.0, "{:.0f}"),
    ("moved MB", "moved_nbytes", 1e-6, "{:.1f}"),
    ("peak PSS MB", "peak_pss_nbytes", 1e-6, "{:.0f}"),
)


def strategies_page(paths: Sequence[Path]) -> str:
    """Return the page of results as Markdown.

    Raises
    ------
    MMFormatError
        When a file is no result.
    """
    lines = [_HEAD]
    for path in paths:
        lines += _machine(path.stem, load(path))
    return "\n".join(lines).rstrip() + "\n"


def _machine(name: str, result: dict[str, Any]) -> Iterator[str]:
    settings, found = result["settings"], result["environment"]
    yield f"## {name}"
    yield ""
    yield (
        f"{found['time_utc']}; {found['cpu']}, {found['cores_usable']} cores; Python "
        f"{found['python']}; torch {found['packages']['torch']}; load at the start "
        f"{found['load'][0]:.1f}. {settings['tp']} ranks with tensors on "
        f"{_where(result)}; {settings['requests']} requests of {settings['payload']}, "
        "the first "
        f"{settings['feature_nbytes_of_the_first_request'] / 1e6:.1f} MB of float32; "
        f"{settings['rounds']} rounds; a pool of {settings['workers']}."
    )
    yield ""
    cells = {cell["way"]: cell for cell in result["cells"]}
    yield "| way | " + " | ".join(title for title, *_ in _COLUMNS) + " |"
    yield "|---" + "|---:" * len(_COLUMNS) + "|"
    for way in WAYS:
        if way.name in cells:
            cell = cells[way.name]
            row = (form.format(value_of(cell, key) * by) for _, key, by, form in _COLUMNS)
            yield f"| {way.title} | " + " | ".join(row) + " |"
    yield ""
    yield from _estimates(cells)
    yield from _goals(cells)
    yield from _reasons(cells, result)


def value_of(cell: dict[str, Any], key: str) -> float:
    """Return a metric's median, or the p50 and p99 of the concurrent requests."""
    metrics = cell["metrics"]
    if key in ("p50", "p99"):
        together = sorted(metrics["concurrent_ms"]["samples"])
        share = int(key[1:]) / 100
        return float(together[min(len(together) - 1, round(share * len(together)))])
    return float(metrics[key]["median"])


def _where(result: dict[str, Any]) -> str:
    names = result.get("devices", {}).get("names", [])
    return f"{len(names)} x {names[0]}, dealt over them" if names else "the host"


def _estimates(cells: dict[str, dict[str, Any]]) -> Iterator[str]:
    rows = [cell for cell in cells.values() if cell["estimate"]]
    if not rows:
        return
    yield "### Measured; and once estimated, for 4 ranks and 10 requests"
    yield ""
    yield "| way | CPU ms | latency ms | requests/s | CPU use | scheduler blocked |"
    yield "|---|---:|---:|---:|---:|---:|"
    for cell in rows:
        estimate = cell["estimate"]
        share = cell["metrics"]["cpu_use_share"]["median"]
        yield (
            f"| {cell['title']} | {value_of(cell, 'cpu_ms'):.0f}; {estimate['cpu_ms']:g} "
            f"| {value_of(cell, 'latency_ms'):.0f}; {estimate['latency_ms']:g} "
            f"| {value_of(cell, 'throughput_per_s'):.1f}; {estimate['requests_per_s']:g} "
            f"| {share:.0%}; {estimate['cpu_use']} "
            f"| {value_of(cell, 'blocked_longest_ms'):.0f} ms; {estimate['scheduler_blocked']} |"
        )
    yield ""


def _goals(cells: dict[str, dict[str, Any]]) -> Iterator[str]:
    met = [goal for goal in GOALS if goal.ours in cells and goal.theirs in cells]
    if not met:
        return
    yield "### Goals"
    yield ""
    yield "| mmformat | compared with | measured, both sides | ratio | goal |"
    yield "|---|---|---|---:|---:|"
    for goal in met:
        yield _goal(goal, cells)
    yield ""


def _goal(goal: Goal, cells: dict[str, dict[str, Any]]) -> str:
    ours, theirs = (value_of(cells[name], goal.metric) for name in (goal.ours, goal.theirs))
    ratio = ours / theirs if theirs else float("nan")
    verdict = "met" if goal.holds(ours, theirs) else "**missed**"
    sign = "at least" if goal.at_least else "at most"
    return (
        f"| {goal.ours} | {goal.theirs} | {goal.title}: {ours:.3g}, {theirs:.3g} | {ratio:.3g} "
        f"| {sign} {goal.ratio:g}: {verdict} |"
    )


def _reasons(cells: dict[str, dict[str, Any]], result: dict[str, Any]) -> Iterator[str]:
    if not {"every-rank", "rank-0", "tokenizer", "mmformat"} <= cells.keys():
        return
    tp = result["settings"]["tp"]
    cores = result["environment"]["cores_usable"]
    original, commit, plan_a = (cells[name] for name in ("every-rank", "rank-0", "tokenizer"))
    once_ms = value_of(original, "cpu_ms") / tp
    carry_ms = value_of(commit, "cpu_ms") - once_ms
    yield "### Why the estimates and the measurements disagree"
    yield ""
    yield (
        "* **Materializing is cheaper than was thought.** The analysis took 500 ms for it, from a "
        "profile of `from_dict`. Most of that was not decoding but the hash of every byte, which "
        "an engine computes on every rank; here an image is decoded, resized and normalized in "
        f"{once_ms:.0f} ms of CPU ({value_of(original, 'cpu_ms'):.0f} ms over "
        f"{tp} ranks). CPU per request is therefore smaller in every row, and what was called "
        "small beside it, the pickle and its broadcast, is not: "
        f"{carry_ms:.0f} ms of the {value_of(commit, 'cpu_ms'):.0f} when rank 0 broadcasts."
    )
    yield (
        "* **Decoding in each rank blocks the scheduler too** "
        f"({value_of(original, 'blocked_longest_ms'):.0f} ms at the longest): the estimate said "
        "no, because no rank waits for another, but each decodes in the loop that should answer."
    )
    yield (
        f"* **Decoding in the tokenizer still blocks it** "
        f"({value_of(plan_a, 'blocked_longest_ms'):.0f} ms): decoding "
        "has left the loop; broadcasting and unpickling of what is now "
        f"{value_of(plan_a, 'moved_nbytes') / 1e6:.0f} MB a request has not."
    )
    ratio = value_of(commit, "throughput_per_s") / value_of(original, "throughput_per_s")
    yield (
        f"* **Decoding in rank 0 has {ratio:.2f} times the throughput of decoding in each rank**; "
        f"0.65 was estimated, and a loss of 35 % was reported. With {cores} cores, {tp} ranks that "
        "all "
        + (
            "decode wait for each other's cores, so decoding once pays although the requests go "
            "one by one."
            if cores < tp
            else "decode do so side by side, while rank 0 alone decodes, pickles and "
            "broadcasts one request after the other."
        )
    )
    ours = ", ".join(
        f"{name} {value_of(cells[name], 'cpu_ms'):.0f} ms"
        for name in ("mmformat", "mmformat-dictionary")
        if name in cells
    )
    yield (
        f"* **Decoding once instead of {tp} times already saves {tp - 1}/{tp} of the CPU.** The "
        f"goal of a fifth leaves mmformat {tp / 5:.1f} of the time that one rank takes to decode "
        f"({once_ms:.0f} ms) for decoding and carrying: {ours}. Where ranks compete for cores, "
        "decoding in each of them costs more; where each has its own, only dictionary encoding, "
        "which computes no float, comes near the goal."
    )
    yield ""
