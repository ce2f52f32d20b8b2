"""Counters that give the same number at every run: copies, allocations, page faults, bytecodes."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import platform
import struct
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, Final

import pyarrow as pa
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mmformat.measure import minor_faults

__all__ = ["count", "counts_instructions"]

_PAGE_NBYTES: Final = os.sysconf("SC_PAGE_SIZE")
_SYSCALL: Final = {"x86_64": 298, "aarch64": 241}
_COPIES: Final = ("clone", "copy_", "_to_copy", "cat", "stack", "contiguous", "repeat", "index")


def count(run: Callable[[], Any], after: Callable[[Any], object]) -> dict[str, float]:
    """Run an operation once for each counter, and return what all of them saw.

    Parameters
    ----------
    run : callable
        The operation; it must do the same at every call.
    after : callable
        Called with each result, uncounted: to let it go.

    Returns
    -------
    dict of str to float
        ``calls_count`` of Python and C functions, ``bytecodes_count``; ``allocated_nbytes``, the
        peak of Python's and numpy's memory; ``torch_copied_nbytes``, what torch's copying
        operations wrote; ``arrow_allocated_nbytes``; ``faulted_nbytes``, fresh pages that were
        written to or read; and ``instructions_count`` in user space, where the kernel gives it.

    Examples
    --------
    >>> found = count(lambda: bytes(2**20), lambda result: None)
    >>> 2**20 <= found["allocated_nbytes"] < 2**20 + 2**14
    True
    """
    counters = [_calls, _bytecodes, _allocated, _torch_copied, _arrow_allocated, _faulted]
    if counts_instructions():
        counters.append(_instructions)
    found: dict[str, float] = {}
    for counter in counters:
        gc.collect()
        gc.disable()
        try:
            with counter(found):
                result = run()
        finally:
            gc.enable()
        after(result)
        del result
    return found


@contextlib.contextmanager
def _calls(found: dict[str, float]) -> Iterator[None]:
    calls = 0

    def seen(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(seen)
    try:
        yield
    finally:
        sys.setprofile(None)
    found["calls_count"] = calls


@contextlib.contextmanager
def _bytecodes(found: dict[str, float]) -> Iterator[None]:
    bytecodes = 0

    def seen(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal bytecodes
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        bytecodes += event == "opcode"
        return seen

    sys.settrace(seen)
    try:
        yield
    finally:
        sys.settrace(None)
    found["bytecodes_count"] = bytecodes


@contextlib.contextmanager
def _allocated(found: dict[str, float]) -> Iterator[None]:
    tracemalloc.start(1)
    try:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        yield
        found["allocated_nbytes"] = max(0, tracemalloc.get_traced_memory()[1] - before)
    finally:
        tracemalloc.stop()


@contextlib.contextmanager
def _torch_copied(found: dict[str, float]) -> Iterator[None]:
    with _Copies() as copies:
        yield
    found["torch_copied_nbytes"] = copies.nbytes


@contextlib.contextmanager
def _arrow_allocated(found: dict[str, float]) -> Iterator[None]:
    pool: Any = pa.default_memory_pool()
    before = pool.total_bytes_allocated()
    yield
    found["arrow_allocated_nbytes"] = pool.total_bytes_allocated() - before


@contextlib.contextmanager
def _faulted(found: dict[str, float]) -> Iterator[None]:
    before = minor_faults()
    yield
    found["faulted_nbytes"] = (minor_faults() - before) * _PAGE_NBYTES


@contextlib.contextmanager
def _instructions(found: dict[str, float]) -> Iterator[None]:
    descriptor = _open_counter()
    if descriptor is None:
        yield
        return
    try:
        before = struct.unpack("Q", os.read(descriptor, 8))[0]
        yield
        found["instructions_count"] = struct.unpack("Q", os.read(descriptor, 8))[0] - before
    finally:
        os.close(descriptor)


class _Copies(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Add up what torch's copying operations write; views and reads count nothing."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.nbytes = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, values: Any = (), named: Any = None
    ) -> Any:
        result = function(*values, **(named or {}))
        if function.overloadpacket.__name__ in _COPIES and isinstance(result, torch.Tensor):
            self.nbytes += result.nbytes
        return result


def counts_instructions() -> bool:
    """Return whether the kernel counts instructions for this process; most containers do not."""
    descriptor = _open_counter()
    if descriptor is None:
        return False
    os.close(descriptor)
    return True


def _open_counter() -> int | None:
    """Return a descriptor that counts this thread's user-space instructions, or None."""
    number = _SYSCALL.get(platform.machine())
    if number is None or sys.platform != "linux":
        return None
    # struct perf_event_attr: type PERF_TYPE_HARDWARE, its size, PERF_COUNT_HW_INSTRUCTIONS, and
    # at byte 40 the flags exclude_kernel and exclude_hv.
    attributes = bytearray(128)
    struct.pack_into("=IIQ", attributes, 0, 0, len(attributes), 1)
    struct.pack_into("=Q", attributes, 40, 1 << 5 | 1 << 6)
    raw = (ctypes.c_char * len(attributes)).from_buffer(attributes)
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = libc.syscall(number, raw, 0, -1, -1, 0)
    return descriptor if descriptor >= 0 else None
