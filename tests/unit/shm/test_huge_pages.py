"""Pages are gathered where the kernel can, and what they hold stays."""

from __future__ import annotations

import mmap
import os
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mmformat.bench.measure import minor_faults
from mmformat.shm import huge_pages
from mmformat.shm.huge_pages import HUGE_NBYTES, gather_pages, room_for


def huge_nbytes() -> int:
    text = Path("/proc/meminfo").read_text()
    (line,) = [line for line in text.splitlines() if line.startswith("ShmemHugePages")]
    return int(line.split()[1]) * 1024


@pytest.mark.parametrize("extra", [0, 4096])
def test_the_contents_stay(extra) -> None:
    nbytes = 3 * HUGE_NBYTES + extra
    fd = os.memfd_create("mmf-test")
    try:
        os.ftruncate(fd, nbytes)
        with mmap.mmap(fd, nbytes) as mapping:
            pattern = os.urandom(HUGE_NBYTES) * 3 + os.urandom(extra)
            mapping[:] = pattern
            before = huge_nbytes()
            gathered = gather_pages(fd, nbytes)
            assert gathered in (0, HUGE_NBYTES, 2 * HUGE_NBYTES, 3 * HUGE_NBYTES)
            assert mapping[:] == pattern
            if gathered and before == 0:
                assert huge_nbytes() >= gathered
    finally:
        os.close(fd)


def test_a_segment_below_one_huge_page_is_left_alone() -> None:
    fd = os.memfd_create("mmf-test")
    try:
        os.ftruncate(fd, HUGE_NBYTES - 4096)
        assert gather_pages(fd, HUGE_NBYTES - 4096) == 0
    finally:
        os.close(fd)


def test_another_file_system_is_no_error() -> None:
    with tempfile.TemporaryFile(dir=Path.cwd()) as file:
        file.truncate(2 * HUGE_NBYTES)
        assert gather_pages(file.fileno(), 2 * HUGE_NBYTES) in (0, 2 * HUGE_NBYTES)


def test_no_address_space_is_left_behind() -> None:
    fd = os.memfd_create("mmf-test")
    try:
        os.ftruncate(fd, 4 * HUGE_NBYTES)
        gather_pages(fd, 4 * HUGE_NBYTES)
        assert "mmf-test" not in Path("/proc/self/maps").read_text()
    finally:
        os.close(fd)


@pytest.mark.parametrize("offset", [0, 4096, 3 * 4096 + HUGE_NBYTES])
def test_a_private_mapping_lies_as_its_file_does_and_takes_a_fault_for_each_huge_page(
    offset: int,
) -> None:
    """One fault for each 2 MiB, where the kernel has gathered them."""
    nbytes = 12 * HUGE_NBYTES
    fd = os.memfd_create("mmf-test")
    try:
        os.ftruncate(fd, offset + nbytes)
        with mmap.mmap(fd, offset + nbytes) as shared:
            shared[:] = os.urandom(4096) * ((offset + nbytes) // 4096)
        gathered = gather_pages(fd, offset + nbytes)
        elsewhere = []
        while True:
            with room_for(nbytes, offset):
                mapping = mmap.mmap(
                    fd, nbytes, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE, offset=offset
                )
            values = np.frombuffer(mapping, np.uint8)
            if (values.ctypes.data - offset) % HUGE_NBYTES == 0:
                break
            # A gap that other tests left, a little larger than the mapping: it is full now.
            elsewhere.append(mapping)
            assert len(elsewhere) < 5
        with mapping:
            before = minor_faults()
            values[::4096].sum()
            if gathered > nbytes:
                assert minor_faults() - before < nbytes // 4096 // 16  # what fault-around takes
            mapping[:1] = bytes([values[0] ^ 1])  # private still: the file keeps its own
            assert os.pread(fd, 1, offset) != mapping[:1]
            del values
    finally:
        os.close(fd)


def test_room_is_given_back_whether_it_was_used_or_not() -> None:
    before = len(Path("/proc/self/maps").read_text().splitlines())
    for _ in range(20):
        with room_for(8 * HUGE_NBYTES, 4096):
            pass
        with pytest.raises(ZeroDivisionError), room_for(8 * HUGE_NBYTES, 0):
            raise ZeroDivisionError
    assert len(Path("/proc/self/maps").read_text().splitlines()) <= before + 2


def test_room_that_cannot_be_cut_is_given_back_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process that has as many mappings as the kernel allows."""
    real = huge_pages._library()
    nbytes = 8 * HUGE_NBYTES
    held: dict[int, int] = {}

    def reserve(*arguments: Any) -> Any:
        address = real.mmap(*arguments)
        held[address] = arguments[1]
        return address

    def unmap(start: int, length: int) -> int:
        if length == nbytes:
            return -1
        if held.get(start) == length:
            del held[start]
        return int(real.munmap(start, length))

    monkeypatch.setattr(huge_pages, "_library", lambda: SimpleNamespace(mmap=reserve, munmap=unmap))
    with room_for(nbytes, 4096):
        assert not held
    assert not held
