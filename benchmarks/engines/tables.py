"""Write the tables of docs/engines.md from committed results.

python -m benchmarks.engines.tables [benchmarks/engines/results] [docs/engines.md]
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BEGIN = "<!-- made by `python -m benchmarks.engines.tables` from the results -->"
END = "<!-- end of what is made -->"
FILES = ("vllm_0_33.json", "sglang_0_5_23.json", "sglang_0_5_5.json")
OURS = "mmformat"
# What issue 8 asks: part, ours, payloads, and the most that ours may take of the rival's time.
GOALS = (
    ("one hop", "plain", ("image f32 25.8 MB", "8 images f32 206 MB"), 1.0),
    ("one hop", "dictionary", ("image f32 25.8 MB",), 0.5),
    ("one hop", "dictionary", ("8 images f32 206 MB",), 0.25),
    ("whole way", "plain", ("image f32 25.8 MB",), 0.6),
    ("whole way", "dictionary", ("image f32 25.8 MB",), 0.6),
    ("whole way", "plain", ("8 images f32 206 MB",), 0.35),
    ("whole way", "dictionary", ("8 images f32 206 MB",), 0.35),
)
_OF = {"plain": "", "dictionary": ", dictionary"}
HOP_RIVAL = "MessageQueue, shm tensor arena"


def main(results: str = "benchmarks/engines/results", page: str = "docs/engines.md") -> None:
    text = Path(page).read_text()
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    made = "\n".join(_page(Path(results)))
    Path(page).write_text(f"{before}{BEGIN}\n\n{made}\n{END}{after}")


def _page(folder: Path) -> Iterator[str]:
    for name in FILES:
        path = folder / name
        if not path.exists():
            continue
        content = json.loads(path.read_text())
        samples = content["samples"]
        yield f"### {content['what']}"
        yield ""
        yield _environment(content)
        yield ""
        keys = list(dict.fromkeys(key for ways in samples.values() for key in ways))
        parts = dict.fromkeys(key.partition(": ")[0] for key in keys if ": " in key)
        wholes = [part for part in parts if part in ("one hop", "whole way")]
        for part in wholes or [""]:
            yield from _table(samples, keys, part)
        yield from _goals(samples, wholes)


def _environment(content: dict[str, Any]) -> str:
    machine = content["environment"]
    load = ", ".join(f"{value:.1f}" for value in machine["load"])
    program, _, options = content["command"].partition(" ")
    return (
        f"{machine['time_utc']}; {machine['cpu']}, {machine['cores_usable']} cores; Python "
        f"{machine['python']}; load {load}; `{Path(program).name} {options}`"
    )


def _table(samples: dict[str, Any], keys: list[str], part: str) -> Iterator[str]:
    cases = list(samples)
    yield f"| {part or 'whole way'}, ms until the last has touched | " + " | ".join(cases) + " |"
    yield "|---|" + "---:|" * len(cases)
    for key in keys:
        head, _, way = key.rpartition(": ")
        if part and head != part and not key.startswith("control"):
            continue
        shown = f"**{way}**" if way.startswith(OURS) else (key if "control" in key else way)
        cells = [_cell(samples[case].get(key, {}).get("touched", [])) for case in cases]
        yield f"| {shown} | " + " | ".join(cells) + " |"
    yield ""


def _cell(values: list[int]) -> str:
    if not values:
        return ""
    low, middle, high = (number / 1e6 for number in _quartiles(values))
    return f"{middle:.1f} ({low:.1f}-{high:.1f})"


def _quartiles(values: list[int]) -> tuple[float, float, float]:
    if len(values) < 2:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def _median(found: dict[str, list[int]]) -> float:
    return statistics.median(found["touched"])


def _goals(samples: dict[str, Any], parts: list[str]) -> Iterator[str]:
    rows = []
    for part, kind, cases, most in GOALS:
        for case in cases:
            ways = samples.get(case, {})
            if parts:
                ours = f"{part}: mmformat, {kind}"
                rivals = [
                    key for key in ways
                    if key.startswith(part) and OURS not in key and not key.endswith("hit")
                ]  # fmt: skip
                if part == "one hop":
                    rivals = [f"one hop: {HOP_RIVAL}"]
            elif part == "whole way":
                ours = (
                    "mmformat, hash known" if kind == "plain" else f"mmformat, {kind}, hash known"
                )
                rivals = [key for key in ways if OURS not in key and "control" not in key]
            else:
                continue
            if ours not in ways or not rivals:
                continue
            best = min(rivals, key=lambda key: _median(ways[key]))
            mine, its = _median(ways[ours]) / 1e6, _median(ways[best]) / 1e6
            verdict = "yes" if mine / its <= most else "**no**"
            rows.append(
                f"| {part}, {kind}, {case} | {best.rpartition(': ')[2]} | {its:.1f} | {mine:.1f} "
                f"| {mine / its:.2f} | {most} | {verdict} |"
            )
    if rows:
        yield "| ours | the strongest rival | its ms | ours, ms | ours over it | at most | met |"
        yield "|---|---|---:|---:|---:|---:|---|"
        yield from rows
        yield ""


if __name__ == "__main__":
    main(*sys.argv[1:])
