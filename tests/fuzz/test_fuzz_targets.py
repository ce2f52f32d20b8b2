"""The fuzzers' oracles hold for every seed, for changed seeds, and for what was ever found."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.fuzz.target import Target, some_bytes
from tests.fuzz.targets import TARGETS

FOUND = sorted((Path(__file__).parent / "found").iterdir())
CHANGES = 400


@pytest.mark.parametrize("target", TARGETS.values(), ids=list(TARGETS))
def test_seeds_and_their_changes(target: Target) -> None:
    """Clauses: E-3. The same mutations as under atheris, without its guidance."""
    chance = random.Random(20_261_122)
    mutate = some_bytes(chance)
    seeds = list(target.seeds())
    for seed in seeds:
        target.check(seed)
    for _ in range(CHANGES):
        data = chance.choice(seeds)
        for _ in range(chance.choice((1, 1, 3))):
            data = target.mutate(data, target.max_nbytes, chance, mutate)
        assert len(data) <= max(target.max_nbytes, 2**14)
        target.check(data)


@pytest.mark.parametrize("path", FOUND, ids=[path.name for path in FOUND])
def test_what_was_found_stays_mended(path: Path) -> None:
    """Clauses: E-3."""
    TARGETS[path.name.partition("-")[0]].check(path.read_bytes())


def test_an_oracle_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    target = TARGETS["decode"]
    monkeypatch.setattr("tests.fuzz.messages.verify", lambda data, limits: [])
    with pytest.raises(AssertionError, match="decode: truncated"):
        target.check(b"")
