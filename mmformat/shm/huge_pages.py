"""Huge pages: gather a segment's pages into them, and map slots where they can be mapped whole."""

from __future__ import annotations

import ctypes
import mmap
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Final

__all__ = ["gather_pages", "plant_pages", "room_for"]

HUGE_NBYTES: Final = 2**21
_COLLAPSE: Final = 25
_FIXED: Final = 0x10
_NO_ACCESS: Final = 0
_FAILED: Final = ctypes.c_void_p(-1).value


def plant_pages(fd: int, nbytes: int) -> None:
    """Size an empty tmpfs file and give each huge page of it one small page to be gathered around.

    :func:`gather_pages` then takes huge pages as they are, where it would copy 512 small ones into
    each, which takes 5 to 15 times as long; but a huge page of nothing it refuses.

    Raises
    ------
    OSError
        When there is no room.
    """
    os.ftruncate(fd, nbytes)
    for offset in range(0, nbytes - HUGE_NBYTES + 1, HUGE_NBYTES):
        os.pwrite(fd, b"\0", offset)


def gather_pages(fd: int, nbytes: int, *, budget_s: float = 5.0) -> int:
    """Turn whole huge pages' worth of a tmpfs file into huge pages; return the bytes of them.

    Works whatever ``/sys/kernel/mm/transparent_hugepage`` says, except ``deny`` for shared memory,
    and only while no page is pinned. Contents stay.

    Parameters
    ----------
    fd : int
        The file, open for writing.
    nbytes : int
        Its size.
    budget_s : float
        When this is spent the rest is left as it is.

    Notes
    -----
    **Copies**: every page that is there once, inside the kernel. **Cost**: 0.2 ms a MiB where pages
    were planted, from 0.7 ms on where all are there, more where memory is scattered. Nothing
    happens before Linux 6.2 and on other file systems.
    """
    usable = nbytes - nbytes % HUGE_NBYTES
    if not usable:
        return 0
    library = _library()
    # Only a mapping whose addresses are aligned as the file's offsets are can be gathered, and
    # Python's mmap cannot choose its address: reserve more, and map over the aligned part.
    spare = usable + HUGE_NBYTES
    private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    reserved = library.mmap(None, spare, _NO_ACCESS, private, -1, 0)
    if reserved == _FAILED:
        return 0
    try:
        aligned = -(-reserved // HUGE_NBYTES) * HUGE_NBYTES
        protection = mmap.PROT_READ | mmap.PROT_WRITE
        shared = mmap.MAP_SHARED | _FIXED
        if library.mmap(aligned, usable, protection, shared, fd, 0) == _FAILED:
            return 0
        collapse = ctypes.CDLL(None).madvise  # takes a while: other threads run meanwhile
        collapse.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
        gathered = 0
        deadline_s = time.monotonic() + budget_s
        for start in range(aligned, aligned + usable, HUGE_NBYTES):
            if collapse(start, HUGE_NBYTES, _COLLAPSE) == 0:
                gathered += HUGE_NBYTES
            elif gathered == 0:
                break  # it is not to be had here, at the last page as at the first
            if time.monotonic() > deadline_s:
                break
        return gathered
    finally:
        library.munmap(reserved, spare)


@contextmanager
def room_for(nbytes: int, offset: int) -> Iterator[None]:
    """Inside it, a mapping of so many bytes of a file lies where huge pages can be mapped whole.

    A huge page is mapped by one fault if the mapping's addresses are aligned as the file's offsets
    are. Python's mmap cannot choose its address, and the kernel takes the highest gap that is large
    enough: so a gap is made, of that size and at such an address, with nothing free around it.
    Whoever is quicker in another thread may take it; the mapping then lies elsewhere, and is
    mapped page by page as ever.

    Parameters
    ----------
    nbytes : int
        The length of the mapping.
    offset : int
        Where in the file it begins, at a page.

    Notes
    -----
    **Cost**: four system calls. Reading a byte of every page of 200 MB, mapped privately from huge
    pages of tmpfs, took 0.8 ms so, and 8.7 ms at another address (Linux 6.18, one core).
    """
    if nbytes < 2 * HUGE_NBYTES:  # it may not hold a whole one
        yield
        return
    library = _library()
    nbytes = -(-nbytes // mmap.PAGESIZE) * mmap.PAGESIZE
    spare = nbytes + HUGE_NBYTES
    reserved = library.mmap(None, spare, _NO_ACCESS, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
    if reserved == _FAILED:
        yield
        return
    start = reserved + (offset - reserved) % HUGE_NBYTES
    if library.munmap(start, nbytes):
        # A process with as many mappings as it may have cannot cut one in two.
        library.munmap(reserved, spare)
        yield
        return
    try:
        yield
    finally:
        end, last = start + nbytes, reserved + spare
        if start > reserved:
            library.munmap(reserved, start - reserved)
        if last > end:
            library.munmap(end, last - end)


@cache
def _library() -> ctypes.PyDLL:
    # These calls are shorter than giving up the interpreter's lock and taking it again.
    library = ctypes.PyDLL(None)
    library.mmap.restype = ctypes.c_void_p
    library.mmap.argtypes = (
        ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long,
    )  # fmt: skip
    library.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
    return library
