"""Children that read pickles for us, kept warm, and what they hand back."""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import functools
import json
import mmap
import os
import resource
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from mmformat import errors
from mmformat._processes import ChannelClosedError, Child, import_paths
from mmformat.errors import DecodeError, IntegrityError, LimitError, MMFormatError
from mmformat.legacy import exchange
from mmformat.legacy.child import NO_MEMORY, SCRATCH_NBYTES
from mmformat.legacy.limits import PickleLimits
from mmformat.legacy.nodes import Tensor
from mmformat.legacy.reading import Reading, measure
from mmformat.legacy.storage import ALIGNMENT, Source

__all__ = ["Block", "read_isolated"]

_START_S: Final = 60.0
_GRACE_S: Final = 5.0
_CPU_GRACE_S: Final = 2
_CPU_CLOCK: Final = 2
_ROOM_NBYTES: Final = 2**30
_ROOM_TIMES: Final = 8
_MOST_USES: Final = 4096
_MOST_IDLE: Final = max(2, os.cpu_count() or 2)
_SEALS: Final = 0x1 | 0x2 | 0x4 | 0x8  # SEAL, SHRINK, GROW, WRITE
_SIZE_SEALS: Final = 0x1 | 0x2 | 0x4
_BOOT: Final = (
    "import json,sys; sys.path[:]=json.loads(sys.argv[3]); "
    "from mmformat.legacy.child import run; run(int(sys.argv[1]), int(sys.argv[2]))"
)
_RAISED: Final = ("UnsafePickleError", "DecodeError", "TruncatedError", "LimitError", "ModelError")


class Block:
    """Hold the tensors of one conversion: one private mapping, each on a 64-byte boundary."""

    __slots__ = ("_data", "_offsets", "isolation")

    def __init__(
        self, data: npt.NDArray[np.uint8], offsets: dict[int, int], isolation: str
    ) -> None:
        self._data = data
        self._offsets = offsets
        self.isolation = isolation

    def data(self, tensor: Tensor) -> npt.NDArray[np.uint8]:
        """Return the bytes of a tensor; no byte is copied."""
        offset = self._offsets[id(tensor)]
        return self._data[offset : offset + tensor.nbytes]


class _Child(Child):
    """One sandbox process."""

    def __init__(self) -> None:
        environment = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "OPENBLAS_NUM_THREADS": "1",
                       "OMP_NUM_THREADS": "1"}  # fmt: skip
        if "LD_LIBRARY_PATH" in os.environ:
            environment["LD_LIBRARY_PATH"] = os.environ["LD_LIBRARY_PATH"]
        number = _anonymous(None, SCRATCH_NBYTES)
        with os.fdopen(number):
            _seal(number, _SIZE_SEALS)
            self.scratch = mmap.mmap(number, SCRATCH_NBYTES, prot=mmap.PROT_READ)
            super().__init__(
                ["-I", "-c", _BOOT, "{channel}", str(number), import_paths()],
                descriptors=[number],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=environment,
                cwd="/",
            )
        self.uses = 0
        self.channel.set_timeout(_START_S)
        try:
            state, _ = self.channel.receive()
        except (ChannelClosedError, OSError) as error:
            self.end()
            raise DecodeError(
                f"expected a sandbox process, got none: {type(error).__name__}",
                hint="convert(..., isolated=False) reads in this process",
                code="sandbox",
            ) from error
        self.isolation = "process+seccomp" if state["seccomp"] else "process"
        self.base_nbytes = self._size()

    def _size(self) -> int:
        try:
            pages = Path(f"/proc/{self.process.pid}/statm").read_bytes().split()[0]
            return int(pages) * mmap.PAGESIZE
        except OSError:
            return 2**30

    def bound(self, nbytes: int, time_s: int) -> None:
        """Bound the child's address space and processor time for one request, from outside."""
        if hasattr(resource, "prlimit"):
            for limit, most in (
                (resource.RLIMIT_AS, self.base_nbytes + _ROOM_NBYTES + nbytes),
                (resource.RLIMIT_CPU, self._processor_s() + time_s + _CPU_GRACE_S),
            ):
                _, hard = resource.prlimit(self.process.pid, limit)
                resource.prlimit(self.process.pid, limit, (most, hard))

    def _processor_s(self) -> int:
        """Return the processor time that the child has used in its life, rounded up."""
        # clock_getcpuclockid(3), which Python does not offer for other processes; /proc is slower.
        return int(time.clock_gettime((~self.process.pid << 3) | _CPU_CLOCK)) + 1


class _Pool:
    """Children that wait for work; never shared across a fork."""

    def __init__(self) -> None:
        self._idle: list[_Child] = []
        self._lock = threading.Lock()
        self._pid = os.getpid()

    @contextlib.contextmanager
    def child(self) -> Iterator[_Child]:
        """Lend a child; it returns only when the work ended without an exception of ours."""
        child = self._take()
        healthy = False
        try:
            yield child
            healthy = True
        finally:
            child.uses += 1
            if healthy and child.uses < _MOST_USES:
                self._give(child)
            else:
                child.end()

    def _take(self) -> _Child:
        with self._lock:
            if self._pid != os.getpid():
                # After a fork the parent's children are not ours to use, nor to end.
                self._idle, self._pid = [], os.getpid()
            while self._idle:
                child = self._idle.pop()
                if child.process.poll() is None:
                    return child
                child.end()
        return _Child()

    def _give(self, child: _Child) -> None:
        with self._lock:
            if len(self._idle) < _MOST_IDLE:
                self._idle.append(child)
                return
        child.end()

    def close(self) -> None:
        """End all idle children of this process."""
        with self._lock:
            idle, self._idle = self._idle, []
        if self._pid == os.getpid():
            for child in idle:
                child.end()


_POOL: Final = _Pool()
atexit.register(_POOL.close)


def read_isolated(
    source: Source, limits: PickleLimits, buffers: Sequence[memoryview]
) -> tuple[Reading, Block]:
    """Read in a sandbox process; return the tree and the tensors' bytes.

    Raises
    ------
    UnsafePickleError, DecodeError, TruncatedError, LimitError
        What the child found; LimitError also when it ran out of time or memory.

    Notes
    -----
    **Copies**: each tensor's bytes once, by the child, out of the mapped file into one block of
    shared memory that nobody else can write any more; bytes of the caller are copied to it first.
    """
    nbytes = len(source.view) + sum(len(buffer) for buffer in buffers)
    limits.check("source_nbytes", nbytes, "$")
    descriptors = [_descriptor(source)]
    spans, position = [], 0
    try:
        if buffers:
            descriptors.append(_anonymous(b"".join(buffers)))
            for buffer in buffers:
                spans.append((position, position + len(buffer)))
                position += len(buffer)
        request = {"limits": _told(limits), "buffers": spans}
        answer = None
        with _POOL.child() as child:
            child.channel.set_timeout(limits.time_s + _GRACE_S)
            try:
                child.bound(_ROOM_TIMES * nbytes, limits.time_s)
                child.channel.send(request, descriptors=descriptors)
                answer, tree = child.channel.receive()
                if "error" not in answer and "memory" not in answer:
                    return _take_over(child, answer, tree, nbytes=nbytes, limits=limits)
            except TimeoutError:
                raise LimitError(
                    f"expected an end within {limits.time_s} s, got none", code="limit"
                ) from None
            except (ChannelClosedError, OSError, ValueError) as error:
                if isinstance(error, MMFormatError):
                    raise
                raise _ended(child, limits) from error
        raise _raised(answer)
    finally:
        for number in descriptors:
            os.close(number)


def _take_over(
    child: _Child, answer: dict[str, Any], tree: bytearray, *, nbytes: int, limits: PickleLimits
) -> tuple[Reading, Block]:
    roots, tensors = exchange.load(tree)
    reading = Reading(
        str(answer["container"]),
        int(answer["protocol"]),
        roots,
        measure(roots, limits, max(1, nbytes)),
        [str(name) for name in answer["names"]],
    )
    offsets, total = _checked_layout(answer, tensors)
    if answer["scratch"] and total <= SCRATCH_NBYTES:
        # Out of what the child can write to, once: from here on nobody changes a byte of it.
        data = _aligned(total)
        data[:] = np.frombuffer(child.scratch, np.uint8, total)
    else:
        child.bound(_ROOM_TIMES * nbytes + total, limits.time_s)
        number = _anonymous(None, total)
        try:
            child.channel.send({}, descriptors=[number])
            done, _ = child.channel.receive()
            if "error" in done:
                raise _raised(done)
            _seal(number)
            block = mmap.mmap(
                number, total, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE
            )
        finally:
            os.close(number)
        data = np.frombuffer(block, np.uint8)
    places = {id(tensor): offset for tensor, offset in zip(tensors, offsets, strict=True)}
    return reading, Block(data, places, child.isolation)


@functools.lru_cache(maxsize=8)
def _told(limits: PickleLimits) -> str:
    return json.dumps(asdict(limits))


def _aligned(nbytes: int) -> npt.NDArray[np.uint8]:
    made = np.empty(nbytes + ALIGNMENT, np.uint8)
    start = -made.ctypes.data % ALIGNMENT
    return made[start : start + nbytes]


def _checked_layout(answer: dict[str, Any], tensors: list[Tensor]) -> tuple[list[int], int]:
    offsets, total = answer["offsets"], answer["nbytes"]
    if type(total) is not int or total < 0 or len(offsets) != len(tensors):
        raise IntegrityError("expected a place for each tensor in the sandbox's answer")
    for offset, tensor in zip(offsets, tensors, strict=True):
        if type(offset) is not int or not 0 <= offset <= total - tensor.nbytes:
            raise IntegrityError("expected tensors within the block of the sandbox's answer")
    return offsets, total


def _descriptor(source: Source) -> int:
    if source.descriptor is not None:
        return os.dup(source.descriptor)
    return _anonymous(source.view)


def _anonymous(data: bytes | memoryview | None, nbytes: int = 0) -> int:
    """Return a descriptor of memory without a name, holding ``data`` or ``nbytes`` zeros."""
    if hasattr(os, "memfd_create"):
        number = os.memfd_create("mmformat", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    else:
        with tempfile.TemporaryFile() as file:
            number = os.dup(file.fileno())
    if data is None:
        os.ftruncate(number, nbytes)
        return number
    left = memoryview(data)
    while left:
        left = left[os.write(number, left) :]
    return number


def _seal(number: int, seals: int = _SEALS) -> None:
    # With all of them nobody, the child included, can change a byte of what we map from here on.
    if not hasattr(os, "memfd_create"):
        return
    try:
        fcntl.fcntl(number, fcntl.F_ADD_SEALS, seals)
    except OSError as error:
        raise IntegrityError("expected the sandbox to let go of the tensors") from error


def _raised(answer: Any) -> MMFormatError:
    if "memory" in answer:
        return LimitError(
            f"expected to fit into the sandbox's memory, got {answer['memory']}",
            hint="if you trust the file: convert(..., isolated=False)",
        )
    found = answer["error"]
    name = found["class"] if found["class"] in _RAISED else "DecodeError"
    made: MMFormatError = getattr(errors, name)(
        found["message"], path=found["path"], hint=found["hint"], code=found["code"]
    )
    return made


def _ended(child: _Child, limits: PickleLimits) -> MMFormatError:
    deadline_s = time.monotonic() + _GRACE_S
    while child.process.poll() is None and time.monotonic() < deadline_s:
        time.sleep(0.01)
    status = child.process.poll()
    if status == NO_MEMORY:
        return _raised({"memory": "MemoryError"})
    if status == -signal.SIGXCPU:
        return LimitError(f"reading took longer than {limits.time_s} s of processor time")
    return DecodeError(
        f"expected the sandbox to answer, got its end with status {status}",
        hint="the file asked for what the sandbox does not give, or shrank while it was read",
        code="sandbox",
    )
