"""Every attack is refused with its own error, in this process and in the sandbox."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import mmformat as mm
from mmformat.legacy import PickleLimits, convert
from tests.security.legacy.attacks import CANARY, Attack, corpus

ATTACKS = corpus()
ROOT = Path(__file__).parents[3]


def test_the_corpus_is_whole() -> None:
    """Names are unique and no group has fallen out."""
    assert len({attack.name for attack in ATTACKS}) == len(ATTACKS) >= 448
    assert {attack.error for attack in ATTACKS} == {
        mm.UnsafePickleError,
        mm.DecodeError,
        mm.TruncatedError,
        mm.LimitError,
    }


@pytest.mark.parametrize("attack", ATTACKS, ids=[attack.name for attack in ATTACKS])
def test_it_is_refused(attack: Attack) -> None:
    limits = PickleLimits(**dict(attack.limits))
    with pytest.raises(mm.MMFormatError) as caught:
        convert(attack.data, isolated=False, limits=limits)
    assert type(caught.value) is attack.error, caught.value
    assert not Path(CANARY).exists()


def test_the_sandbox_refuses_them_alike() -> None:
    """The child finds what this process finds, and lives on."""
    for attack in ATTACKS:
        limits = PickleLimits(**dict(attack.limits))
        with pytest.raises(mm.MMFormatError) as here:
            convert(attack.data, isolated=False, limits=limits)
        with pytest.raises(mm.MMFormatError) as there:
            convert(attack.data, limits=limits)
        assert type(there.value) is type(here.value), attack.name
        assert (str(there.value), there.value.code, there.value.hint) == (
            str(here.value),
            here.value.code,
            here.value.hint,
        ), attack.name
    assert not Path(CANARY).exists()


def test_a_refused_global_is_named_without_control_characters() -> None:
    with pytest.raises(mm.UnsafePickleError) as caught:
        convert(b"cos\x1b[31m\nsystem\n.", isolated=False)
    assert str(caught.value) == r"expected an allow-listed name, got os\x1b[31m.system - at $@16"
    assert caught.value.code == "unsafe-pickle-global"


WATCH = """
import json, os, sys
sys.path.insert(0, {root!r})
from mmformat.legacy import PickleLimits, convert
from tests.security.legacy.attacks import corpus
import mmformat as mm
attacks = corpus()
before = dict(os.environ), sorted(sys.modules), os.getcwd()
try:  # errors are formatted once before anybody watches
    convert(b"cos\\nsystem\\n.", isolated=False)
except mm.MMFormatError as error:
    str(error)
seen, watching = [], False
def hook(event, arguments):
    if watching:
        seen.append(event)
sys.addaudithook(hook)
watching = True
ends = []
for attack in attacks:
    try:
        convert(attack.data, isolated=False, limits=PickleLimits(**dict(attack.limits)))
        ends.append("converted")
    except mm.MMFormatError as error:
        ends.append(type(error).__name__)
watching = False
after = dict(os.environ), sorted(sys.modules), os.getcwd()
print(json.dumps({{"ends": ends, "events": sorted(set(seen)), "same": before == after}}))
"""


def test_nothing_is_executed_imported_or_opened() -> None:
    """An audit hook hears every open, import, exec, socket, process and ctypes call: none."""
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", WATCH.format(root=str(ROOT))],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        timeout=100,
    )
    assert ran.returncode == 0, ran.stderr
    answer = json.loads(ran.stdout)
    # id() is audited too, and the walk over a tree asks for it; nothing else is heard.
    assert set(answer["events"]) <= {"builtins.id"}
    assert answer["same"]
    assert answer["ends"] == [attack.error.__name__ for attack in ATTACKS]
    assert not Path(CANARY).exists()


def test_the_watch_can_hear() -> None:
    """The same hook around pickle.loads hears the first attack: the test above can fail."""
    script = """
import pickle, sys
seen = []
sys.addaudithook(lambda event, arguments: seen.append(event))
pickle.loads(b"\\x80\\x04cos\\ngetpid\\n)R.")
print("pickle.find_class" in seen)
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "True"
