"""Scanners and pickletools as oracles: they are not the boundary, but they may not know better."""

from __future__ import annotations

import io
import json
import pickle
import pickletools
from pathlib import Path

import pytest
from fickling.fickle import Pickled, StackedPickle
from picklescan.scanner import scan_pickle_bytes

import mmformat as mm
from mmformat.legacy import ALLOWED, convert, convert_all
from tests.integration.legacy_manifest import entries
from tests.security.legacy.attacks import CALLS, call, corpus

FOLDER = Path(__file__).parents[2] / "data" / "legacy"
ENTRIES = entries(FOLDER)


def dangerous(data: bytes) -> set[str]:
    """Return the globals that picklescan calls dangerous."""
    result = scan_pickle_bytes(io.BytesIO(data), "x")
    return {f"{g.module}.{g.name}" for g in result.globals if g.safety.value == "dangerous"}


def test_all_that_picklescan_calls_dangerous_is_refused() -> None:
    found = 0
    for attack in corpus():
        if dangerous(attack.data):
            found += 1
            with pytest.raises(mm.MMFormatError):
                convert(attack.data, isolated=False)
    assert found > 90


def test_picklescan_finds_nothing_dangerous_in_what_is_converted() -> None:
    for path, _ in ENTRIES:
        assert not dangerous(path.read_bytes()), path.name


def test_nothing_on_the_list_is_dangerous_to_picklescan() -> None:
    """Except what its own list has and what cannot be done without: said here by name."""
    flagged = {
        f"{module}.{name}"
        for module, name in ALLOWED
        if dangerous(b"\x80\x02c" + f"{module}\n{name}\n".encode() + b".")
    }
    assert flagged <= {"torch.storage._load_from_bytes"}


def test_fickling_sees_the_same_globals() -> None:
    """Fickling decompiles; the names that it imports are those that the report lists."""
    for path, _entry in ENTRIES:
        data = path.read_bytes()
        if b"\x96" in data and path.name.endswith(".p5.pkl"):
            continue  # fickling does not know BYTEARRAY8
        imports = set()
        for pickled in StackedPickle.load(io.BytesIO(data)):
            for node in pickled.properties.imports:
                imports |= {f"{node.module}.{name.name}" for name in node.names}
        try:
            listed = set(convert_all(path, isolated=False).report.globals)
        except mm.DecodeError:
            continue
        # fickling writes Python 3 names for Python 2's.
        listed |= {name.replace("__builtin__", "builtins") for name in listed}
        listed |= {name.removeprefix("builtins.") for name in listed}
        assert {name.removeprefix("builtins.") for name in imports} <= listed, path.name


@pytest.mark.parametrize("index", range(0, len(CALLS), 10))
def test_fickling_likes_no_attack_more_than_we_do(index: int) -> None:
    module, name, arguments, _ = CALLS[index]
    data = call(module, name, *arguments)
    assert Pickled.load(io.BytesIO(data)) is not None
    with pytest.raises(mm.UnsafePickleError):
        convert(data, isolated=False)


def test_the_manifests_name_the_same_globals() -> None:
    """The writer's process listed what its pickles mention; the report lists it too."""
    for path, entry in ENTRIES:
        if entry["expect"] == "convert":
            listed = set(convert_all(path, isolated=False).report.globals)
            assert set(entry["globals"]) <= listed, path.name


def test_every_opcode_of_pickletools_is_known() -> None:
    """A new opcode of a new protocol fails here, not in production."""
    for opcode in pickletools.opcodes:
        data = opcode.code.encode("latin-1")
        try:
            convert(data + b"\x00" * 16, isolated=False)
        except mm.MMFormatError as error:
            assert (
                "expected an opcode" not in error.reason or f"0x{data[0]:02x}" not in error.reason
            )


def test_the_reasons_are_given() -> None:
    assert all(len(entry.reason) > 5 for entry in ALLOWED.values())
    assert json.dumps(sorted(f"{module}.{name}" for module, name in ALLOWED))
    assert not any("*" in module + name for module, name in ALLOWED)


def test_what_pickle_writes_of_a_listed_module_is_still_refused() -> None:
    """A neighbour of an allowed name is not allowed: no prefixes."""
    with pytest.raises(mm.UnsafePickleError, match="numpy"):
        convert(pickle.dumps(__import__("numpy").sum), isolated=False)
