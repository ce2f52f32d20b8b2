"""Pages are gathered where the kernel can, and what they hold stays."""

from __future__ import annotations

import mmap
import os
import tempfile
from pathlib import Path

import pytest

from mmformat.transport.shm.huge_pages import HUGE_NBYTES, gather_pages


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
