"""What an operation does, not how long it takes: bytes copied, memory, calls, instructions."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import platform
import struct
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.cold import TITLES, bytecodes, calls
from benchmarks.payloads import payload
from benchmarks.results import Result, Subject
from benchmarks.scenarios import Run
from mmformat import codec
from mmformat.arena import Arena, decode
from mmformat.bench.measure import Cell, minor_faults
from mmformat.bench.payloads import tensors_of, touch
from mmformat.errors import MMFormatError
from mmformat.model.tensors import tensor_spec

__all__ = [
    "Operation",
    "count",
    "count_here",
    "counts_instructions",
    "operations",
    "run_counts",
]

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
    counters = [calls, bytecodes, _allocated, _torch_copied, _arrow_allocated, _faulted]
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """Name one operation of the library.

    Parameters
    ----------
    name, title : str
        For the cells, and for a table.
    run : callable
        Does it, the same at every call.
    after : callable
        Lets the result go.
    """

    name: str
    title: str
    run: Callable[[], Any]
    after: Callable[[Any], object]


@contextmanager
def operations(name: str) -> Iterator[list[Operation]]:
    """Return the operations with one payload; the arena is there while the context lasts."""
    chosen = payload(name)
    inputs = chosen.make(0)
    message = bytearray(bytes(codec.encode(inputs)))  # out of bytes, torch tensors are copied
    template = [(spec.shape, spec.dtype) for spec in map(tensor_spec, tensors_of(inputs))]
    with (
        Arena.create(nbytes=2 * chosen.nbytes + 2**22, ranks=1) as arena,
        Arena.attach(arena.name, rank=0) as reader,
    ):
        held = [arena.put(inputs)]

        def put_again(result: Any) -> None:
            # The slot is released with the result's last tensor.
            held[0] = arena.put(inputs)

        found = [
            Operation(
                name="encode",
                title="encode to frames",
                run=lambda: codec.encode(inputs).frames,
                after=_nothing,
            ),
            Operation(
                name="decode",
                title="decode a message, every page read",
                run=lambda: _touched(decode(message)),
                after=_nothing,
            ),
            Operation(
                name="put",
                title="put into a touched arena",
                run=lambda: arena.put(inputs),
                after=reader.release,
            ),
            Operation(
                name="reserve",
                title="reserve a slot to write features in place",
                run=lambda: arena.reserve(template),
                after=lambda reserved: reserved.__exit__(None, None, None),
            ),
            Operation(
                name="get",
                title="get from the arena, every page read",
                run=lambda: _touched(reader.get(held[0])),
                after=put_again,
            ),
        ]
        if torch.cuda.is_available():

            def get_on_device() -> Any:
                got = reader.get(held[0], device="cuda:0")
                torch.cuda.synchronize()
                return got

            found.append(
                Operation(
                    name="get-device",
                    title="get on a GPU, the copies complete",
                    run=get_on_device,
                    after=put_again,
                )
            )
        yield found


def _touched(inputs: Any) -> Any:
    touch(inputs)
    return inputs


def _nothing(result: Any) -> None:
    """Let the result go by its last reference."""


_TIMEOUT_S: Final = 300
_FRESH: Final = Subject(name="fresh", title="a fresh process, 1.2 MB", nbytes=256 * 1176 * 4)
_ENVIRONMENT: Final = {
    # Each allocation of 64 KiB and more is fresh memory, so that a page fault tells of a copy.
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "ARROW_DEFAULT_MEMORY_POOL": "system",
    "NUMPY_MADVISE_HUGEPAGE": "0",
    "OMP_NUM_THREADS": "1",
    "PYTHONHASHSEED": "0",
}


def run_counts(run: Run) -> Result:
    """Count what each operation does; the methods are the operations.

    Parameters
    ----------
    run : Run
        What to measure.

    Raises
    ------
    MMFormatError
        When the process that counts fails.
    """
    if run.follow is not None:
        run.follow("counting", 0.1)
    rounds = run.rounds or (1 if run.quick else 3)
    plan = {
        "payloads": list(run.payloads),
        "arms": list(run.methods),
        "rounds": rounds,
    }
    told = _run("benchmarks.counts", json.dumps(plan))
    result = Result(scenario="counts", settings=plan)
    for each in told:
        cell = Cell(payload=each["payload"], method=each["arm"])
        for values in each["counts"]:
            cell.add(**values)
        result.cells.append(cell)
        result.notes[each["arm"]] = (each["title"], "")
        result.subjects[each["payload"]] = Subject(**each["subject"])
    _add_cold(result, [name for name in run.methods if name in TITLES], rounds)
    if "get-device" in run.methods and not any(
        cell.method == "get-device" for cell in result.cells
    ):
        result.missing["get-device"] = "torch finds no CUDA device"
    if not any("instructions_count" in cell.metrics for cell in result.cells):
        result.missing["instructions"] = "the kernel counts none for this process"
    return result


def _run(module: str, *arguments: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        env={**os.environ, **_ENVIRONMENT},
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        check=False,
    )
    if done.returncode != 0:
        raise MMFormatError(
            f"{module} ended with status {done.returncode}, not 0",
            hint=done.stderr.strip().rpartition("\n")[2] or None,
        )
    return json.loads(done.stdout)


def _add_cold(result: Result, methods: Sequence[str], rounds: int) -> None:
    """Count in fresh processes; the first of them may have to compile what it imports."""
    if not methods:
        return
    cells = {name: Cell(payload=_FRESH.name, method=name) for name in methods}
    for _ in range(rounds + 1):
        told = _run("benchmarks.cold")
        for name, cell in cells.items():
            cell.add(**told[name])
    result.cells += cells.values()
    result.subjects[_FRESH.name] = _FRESH
    result.notes |= {name: (TITLES[name], "") for name in methods}


def count_here(name: str, methods: Sequence[str], *, rounds: int) -> list[dict[str, Any]]:
    """Count in this process, and return a dict for each operation."""
    import torch

    from benchmarks.payloads import payload

    torch.set_num_threads(1)
    chosen = payload(name)
    subject = {"name": name, "title": chosen.title, "nbytes": chosen.nbytes}
    found = []
    with operations(name) as all_of_them:
        gc.collect()
        gc.freeze()  # torch's half a million objects, which every collection would go through
        try:
            for operation in all_of_them:
                if operation.name not in methods:
                    continue
                count(operation.run, operation.after)  # caches fill, modules are imported
                found.append(
                    {
                        "payload": name,
                        "subject": subject,
                        "arm": operation.name,
                        "title": operation.title,
                        "counts": [count(operation.run, operation.after) for _ in range(rounds)],
                    }
                )
        finally:
            gc.unfreeze()
    return found


def _main() -> None:
    plan = json.loads(sys.argv[1])
    found = []
    for name in plan["payloads"]:
        found += count_here(name, plan["arms"], rounds=plan["rounds"])
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    _main()
