"""Ask PyPI's advisories about every package of requirements.lock.

Exit status: 0 nothing is known, 1 an advisory, 3 the service could not be asked; with
``--where-reachable`` that is 0 too, and said all the same.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

LOCK = Path(__file__).parents[1] / "requirements.lock"
TIMEOUT_S = 600

UNREACHABLE = 0 if "--where-reachable" in sys.argv else 3


def main() -> int:
    """Run pip-audit and tell an advisory from a service that does not answer."""
    try:
        ran = subprocess.run(
            [
                *(sys.executable, "-m", "pip_audit", "--requirement", str(LOCK), "--disable-pip"),
                *("--require-hashes", "--format", "json", "--progress-spinner", "off"),
            ],
            capture_output=True,
            text=True,
            check=False,
            timeout=TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        print(f"error: the advisory service did not answer in {TIMEOUT_S} s", file=sys.stderr)
        return UNREACHABLE
    try:
        packages = json.loads(ran.stdout)["dependencies"]
    except (ValueError, KeyError):
        last = (ran.stderr.strip() or "no output").splitlines()[-1][:300]
        print(f"error: the advisory service could not be asked: {last}", file=sys.stderr)
        return UNREACHABLE
    found = [package for package in packages if package.get("vulns")]
    for package in found:
        for vulnerability in package["vulns"]:
            fixed = ", ".join(vulnerability["fix_versions"]) or "no version yet"
            name = f"{package['name']} {package['version']}"
            print(f"{name}: {vulnerability['id']}, mended in {fixed}")
    skipped = [package["name"] for package in packages if "skip_reason" in package]
    asked = len(packages) - len(skipped)
    print(f"{asked} of {len(packages)} packages asked about, {len(found)} with advisories")
    if found:
        return 1
    if skipped:
        print(
            f"error: the service knows nothing of {len(skipped)} packages, as "
            f"{', '.join(skipped[:3])}\n\nhint: this index serves files, and no advisories; "
            "run it where pypi.org answers",
            file=sys.stderr,
        )
        return UNREACHABLE
    return 0


if __name__ == "__main__":
    sys.exit(main())
