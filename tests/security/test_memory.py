"""Whatever a message asks for, reading it stays under the limits: measured in a process of its own.

The child may map only so much more than it has when everything is imported, so that whatever asks
for more fails there, loudly, and its high-water mark is read from the kernel.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from mmformat.model import Limits
from tests.security.hostile import LIMITS, bombs
from tests.support.vectors import attacks

ROOT = Path(__file__).parents[2]
ATTRIBUTES_FACTOR = 64
"""By how much the text of attributes may grow when it becomes Python's objects."""

CHILD = """
import ctypes, gc, json, resource, sys
from pathlib import Path
from mmformat.codec import decode
from mmformat.codec.describe import describe
from mmformat.codec.verify import verify
from mmformat.errors import MMFormatError
from mmformat.model import Limits
from mmformat.testing import golden_vectors

def read(data, limits):
    for reader in (verify, describe, decode):
        try:
            reader(data, limits=limits)
            outcome = "value"
        except MMFormatError as error:
            outcome = error.code
    return outcome

def now(name):
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return 1024 * int(line.split()[1])

for vector in golden_vectors("valid"):  # whatever is imported late is imported now
    read(vector.read(), Limits())
resource.setrlimit(resource.RLIMIT_AS, (now("VmSize") + int(sys.argv[2]),) * 2)
told = {}
for path in sorted(Path(sys.argv[1]).glob("*.json")):
    case = json.loads(path.read_text())
    data, limits = path.with_suffix(".arrows").read_bytes(), Limits(**case["limits"])
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark begins anew
    before = now("VmRSS")
    outcome = read(data, limits)
    told[case["name"]] = (outcome, now("VmHWM") - before)
print(json.dumps(told))
"""
Case = tuple[str, bytes, Limits]


def _read_in_a_child(
    folder: Path, cases: Iterable[Case], *, headroom_nbytes: int
) -> dict[str, tuple[str, int]]:
    """Return each case's outcome, and by how many bytes the child grew while it read it."""
    for at, (name, data, limits) in enumerate(cases):
        path = folder / f"{at:04}.json"
        path.write_text(json.dumps({"name": name, "limits": asdict(limits)}))
        path.with_suffix(".arrows").write_bytes(data)
    ran = subprocess.run(
        [sys.executable, "-c", CHILD, str(folder), str(headroom_nbytes)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        timeout=110,
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    told: dict[str, tuple[str, int]] = json.loads(ran.stdout)
    return told


def test_no_attack_takes_memory(tmp_path: Path) -> None:
    """Clauses: B-1, E-3. Every message that must be refused, under the default limits too."""
    cases = [(attack.name, attack.data, Limits(**attack.limits)) for attack in attacks()]
    told = _read_in_a_child(tmp_path, cases, headroom_nbytes=2**26)
    assert len(told) == len(cases) > 100
    assert {name for name, (outcome, _) in told.items() if outcome == "value"} == set()
    assert max(grown for _, grown in told.values()) < 8 * 2**20, told


def test_messages_at_their_limits_take_what_is_documented(tmp_path: Path) -> None:
    """Clauses: B-1, X-5. What is over a limit takes nothing; docs/security.md has the rest."""
    cases = [(name, data, LIMITS) for name, data in bombs()]
    told = _read_in_a_child(tmp_path, cases, headroom_nbytes=2**28)
    for name, (outcome, grown) in told.items():
        print(f"{name}: {outcome}, {grown / 2**20:.1f} MiB")
    over = {name for name in told if name.startswith("over")}
    assert {told[name][0] for name in over} == {"limit"}
    assert {told[name][0] for name in told.keys() - over} == {"value"}
    assert max(told[name][1] for name in over) < 8 * 2**20
    text = [told[name][1] for name in told if name.startswith("attributes")]
    assert max(text) < ATTRIBUTES_FACTOR * LIMITS.attributes_nbytes
    # The tensors themselves, and at most once more while a copy of the message is read.
    rest = [told[name][1] for name in told if not name.startswith("attributes")]
    assert max(rest) < 3 * LIMITS.tensor_nbytes
