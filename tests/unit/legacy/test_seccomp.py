"""The filter's program, run by a small interpreter of its own for both architectures."""

from __future__ import annotations

import struct

import pytest

from mmformat.legacy import child as seccomp

ALLOW, KILL, EPERM = 0x7FFF0000, 0x80000000, 0x00050001


def verdict(machine: str, number: int, architecture: int | None = None) -> int:
    """Interpret the program for one system call."""
    code = list(struct.iter_unpack("=HBBI", seccomp._instructions(machine)))
    data = {0: number, 4: seccomp._AUDIT[machine] if architecture is None else architecture}
    register, counter = 0, 0
    while True:
        kind, yes, no, value = code[counter]
        counter += 1
        if kind == 0x20:
            register = data[value]
        elif kind == 0x15:
            counter += yes if register == value else no
        elif kind == 0x35:
            counter += yes if register >= value else no
        else:
            assert kind == 0x06
            return value


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_each_call_gets_its_verdict(machine: str) -> None:
    column = seccomp._COLUMN[machine]
    for table, wanted in ((seccomp._ALLOWED, ALLOW), (seccomp._DEADLY, KILL)):
        for name, numbers in table.items():
            if numbers[column] is not None:
                assert verdict(machine, numbers[column]) == wanted, name


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_what_is_in_no_table_is_refused(machine: str) -> None:
    column = seccomp._COLUMN[machine]
    known = {n[column] for t in (seccomp._ALLOWED, seccomp._DEADLY) for n in t.values()}
    for number in set(range(1000)) - known:
        assert verdict(machine, number) == EPERM, number


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_another_architecture_is_killed(machine: str) -> None:
    """int 0x80 counts calls otherwise: number 5 is open there and fstat here."""
    assert verdict(machine, 5, 0x40000003) == KILL


def test_the_x32_numbers_are_killed() -> None:
    assert verdict("x86_64", 0x40000000 | 2) == KILL


def test_no_call_is_in_both_tables() -> None:
    assert not seccomp._ALLOWED.keys() & seccomp._DEADLY.keys()
    for column in (0, 1):
        numbers = [
            n[column]
            for t in (seccomp._ALLOWED, seccomp._DEADLY)
            for n in t.values()
            if n[column] is not None
        ]
        assert len(numbers) == len(set(numbers))


def test_where_there_is_no_table_there_is_no_filter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seccomp.platform, "machine", lambda: "riscv64")
    assert seccomp.confine() is False
