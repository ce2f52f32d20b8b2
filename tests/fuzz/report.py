"""Tell what fuzzing did: executions, CPU time, findings, and what of the modules it reached."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

_REPLAY = """
import sys
from pathlib import Path
from tests.fuzz.targets import TARGETS
target = TARGETS[sys.argv[1]]
inputs = [path.read_bytes() for path in sorted(Path(sys.argv[2]).glob("*"))]
for data in [*target.seeds(), *inputs[-int(sys.argv[3]):]]:
    try:
        target.check(data)
    except Exception as error:
        print(f"{target.name}: {type(error).__name__}: {error}"[:200])
"""


def totals(folder: Path) -> dict[str, dict[str, Any]]:
    """Return executions, CPU seconds and the memory's high water of each target."""
    found: dict[str, dict[str, Any]] = defaultdict(lambda: defaultdict(float))
    for path in sorted((folder / "stats").glob("*.json")):
        stats = json.loads(path.read_text())
        line = found[stats["target"]]
        for name in ("executions", "cpu_s", "wall_s", "found"):
            line[name] += stats[name]
        line["high_water_mib"] = max(line["high_water_mib"], stats["high_water_mib"])
    return found


def cover(folder: Path, target: str, most: int) -> dict[str, tuple[int, int]]:
    """Replay a corpus under coverage; return statements and covered ones by module."""
    from tests.fuzz.targets import TARGETS

    include = ",".join(f"*/{module}/*" for module in TARGETS[target].modules)
    with tempfile.TemporaryDirectory() as scratch:
        environment = {**os.environ, "COVERAGE_FILE": f"{scratch}/data"}
        script = Path(scratch) / "replay.py"
        script.write_text(_REPLAY)
        tool = [sys.executable, "-m", "coverage"]
        corpus = folder / "corpus" / target
        ran = subprocess.run(
            [*tool, "run", f"--include={include}", str(script), target, str(corpus), str(most)],
            check=True,
            env={**environment, "PYTHONPATH": str(Path.cwd())},
            capture_output=True,
            text=True,
        )
        sys.stdout.write(ran.stdout)
        out = f"{scratch}/coverage.json"
        subprocess.run(
            [*tool, "json", "-q", "-o", out], check=True, env=environment, capture_output=True
        )
        files = json.loads(Path(out).read_text())["files"]
    return {
        name[name.index("mmformat/") :]: (
            data["summary"]["num_statements"],
            data["summary"]["covered_lines"],
        )
        for name, data in files.items()
    }


def main() -> int:
    """Print the report."""
    parser = argparse.ArgumentParser(prog="tests.fuzz.report")
    parser.add_argument("--folder", type=Path, default=Path(".fuzz"))
    parser.add_argument("--coverage", action="store_true", help="replay the corpora")
    parser.add_argument("--most", type=int, default=4000, help="inputs replayed of each corpus")
    options = parser.parse_args()
    lines = totals(options.folder)
    print(f"{'target':<12}{'executions':>14}{'CPU s':>10}{'corpus':>8}{'peak MiB':>10}{'found':>7}")
    for name, line in lines.items():
        kept = sum(1 for _ in (options.folder / "corpus" / name).glob("*"))
        numbers = f"{line['executions']:>14,.0f}{line['cpu_s']:>10,.0f}{kept:>8,}"
        print(f"{name:<12}{numbers}{line['high_water_mib']:>10,.0f}{line['found']:>7.0f}")
    executions = sum(line["executions"] for line in lines.values())
    cpu_s = sum(line["cpu_s"] for line in lines.values())
    print(f"{'all':<12}{executions:>14,.0f}{cpu_s:>10,.0f}   ({cpu_s / 3600:.2f} CPU hours)")
    findings = sorted(path.name for path in (options.folder / "findings").glob("*"))
    print("findings:", *(findings or ["none"]), sep="\n  ")
    if options.coverage:
        covered: dict[str, tuple[int, int]] = {}
        for name in lines:
            for module, (statements, hit) in cover(options.folder, name, options.most).items():
                covered[module] = (statements, max(hit, covered.get(module, (0, 0))[1]))
        for module, (statements, hit) in sorted(covered.items()):
            print(f"{100 * hit / max(1, statements):>5.0f} %  {hit:>4}/{statements:<4} {module}")
        every = [sum(pair[at] for pair in covered.values()) for at in (0, 1)]
        print(f"{100 * every[1] / max(1, every[0]):>5.1f} %  of all {len(covered)} modules' lines")
    return 0


if __name__ == "__main__":
    sys.exit(main())
