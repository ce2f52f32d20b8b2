"""requirements.lock names what the tests need, at the versions of constraints.txt, with hashes."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOCK = (ROOT / "requirements.lock").read_text("utf-8")
PIN = re.compile(r"^([A-Za-z0-9._-]+)==(\S+)(?: ;.*?)? \\\n((?:    --hash=\S+(?: \\)?\n)+)", re.M)
LOCKED = {name: (version, hashes.split()) for name, version, hashes in PIN.findall(LOCK)}


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _constraints() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    pins = [line.split("==") for line in lines if "==" in line and not line.startswith("#")]
    return {_normal(name): version for name, version in pins}


def test_every_line_of_the_lock_was_understood() -> None:
    lines = [line for line in LOCK.splitlines() if line and line[0] not in "# "]
    assert len(lines) == len(LOCKED) >= 90
    for name, (_, hashes) in LOCKED.items():
        found = [text for text in hashes if text != "\\"]
        assert found, name
        assert all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", text) for text in found), name


def test_versions_are_those_that_the_tests_passed_with() -> None:
    """After a change of constraints.txt: `make lock`."""
    pins = _constraints()
    other = {
        name: (version, pins[name])
        for name, (version, _) in LOCKED.items()
        if name in pins and pins[name] != version
    }
    assert not other, f"locked and constrained: {other}"


def _wanted(groups: dict[str, list[str | dict[str, str]]], group: str) -> Iterator[str]:
    for entry in groups[group]:
        if isinstance(entry, dict):
            yield from _wanted(groups, entry["include-group"])
        else:
            yield entry


@pytest.mark.parametrize("what", ["dependencies", "extras", "dev"])
def test_what_is_asked_for_is_locked(what: str) -> None:
    """After a change of pyproject.toml: `make lock`."""
    made = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    project = made["project"]
    if what == "dependencies":
        wanted = project["dependencies"]
    elif what == "extras":
        extras = project["optional-dependencies"].values()
        wanted = [text for texts in extras for text in texts if "mmformat" not in text]
    else:
        wanted = list(_wanted(made["dependency-groups"], "dev"))
    names = {_normal(re.split(r"[^A-Za-z0-9._-]", text)[0]) for text in wanted}
    # torch is several files under one version: docs/security.md. Ray is tested in an environment of
    # its own, as the engines are.
    assert names - set(LOCKED) <= {"torch", "ray"}
    assert "torch" not in LOCKED
