"""The sandbox's process: it reads pickles that its parent opened, and can open nothing itself."""

from __future__ import annotations

import ctypes
import functools
import gc
import json
import mmap
import os
import platform
import resource
import struct
import sys
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from mmformat._processes import Channel, ChannelClosedError
from mmformat.errors import MMFormatError
from mmformat.legacy import exchange
from mmformat.legacy.limits import PickleLimits
from mmformat.legacy.nodes import Tensor
from mmformat.legacy.reading import Reading, read
from mmformat.legacy.storage import Lander, layout

__all__ = [
    "NO_MEMORY",
    "SCRATCH_NBYTES",
    "confine",
    "run",
]

_PR_SET_NO_NEW_PRIVS: Final = 38
_SET_MODE_FILTER: Final = 1
_ALL_THREADS: Final = 1
_SECCOMP: Final = {"x86_64": 317, "aarch64": 277}
_KILL: Final = 0x80000000
_ERRNO: Final = 0x00050000
_ALLOW: Final = 0x7FFF0000
_EPERM: Final = 1
_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_X32: Final = 0x40000000

# (x86-64, aarch64); None where the architecture has no such call.
_AUDIT: Final = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_COLUMN: Final = {"x86_64": 0, "aarch64": 1}
_ALLOWED: Final[dict[str, tuple[int | None, int | None]]] = {
    "read": (0, 63), "write": (1, 64), "close": (3, 57), "fstat": (5, 80), "lseek": (8, 62),
    "mmap": (9, 222), "mprotect": (10, 226), "munmap": (11, 215), "brk": (12, 214),
    "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139),
    "mremap": (25, 216), "madvise": (28, 233), "getpid": (39, 172), "sendto": (44, 206),
    "recvfrom": (45, 207), "sendmsg": (46, 211), "recvmsg": (47, 212), "exit": (60, 93),
    "fcntl": (72, 25), "gettimeofday": (96, 169), "gettid": (186, 178), "futex": (202, 98),
    "sched_yield": (24, 124), "clock_gettime": (228, 113), "clock_nanosleep": (230, 115),
    "exit_group": (231, 94), "ppoll": (271, 73), "poll": (7, None), "getrandom": (318, 278),
    "sigaltstack": (131, 132), "rseq": (334, 293), "restart_syscall": (219, 128),
    "tgkill": (234, 131), "newfstatat": (262, 79),
}  # fmt: skip
# A process that asks for one of these is no longer ours: it is killed, not answered.
_DEADLY: Final[dict[str, tuple[int | None, int | None]]] = {
    "open": (2, None), "openat": (257, 56), "openat2": (437, 437), "creat": (85, None),
    "socket": (41, 198), "socketpair": (53, 199), "connect": (42, 203), "bind": (49, 200),
    "listen": (50, 201), "accept": (43, 202), "accept4": (288, 242), "execve": (59, 221),
    "execveat": (322, 281), "fork": (57, None), "vfork": (58, None), "clone": (56, 220),
    "clone3": (435, 435), "ptrace": (101, 117), "process_vm_writev": (311, 271),
    "unlink": (87, None), "unlinkat": (263, 35), "rename": (82, None), "renameat2": (316, 276),
    "mkdir": (83, None), "mkdirat": (258, 34), "memfd_create": (319, 279), "kill": (62, 129),
    "io_uring_setup": (425, 425), "bpf": (321, 280), "chmod": (90, None), "fchmodat": (268, 53),
    "symlinkat": (266, 36), "linkat": (265, 37), "mount": (165, 40), "shmget": (29, 194),
}  # fmt: skip


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def _instructions(machine: str) -> bytes:
    column = _COLUMN[machine]
    made: list[tuple[int, int, int, int]] = [
        (_LOAD, 0, 0, 4),  # the architecture of the call
        (_EQUAL, 1, 0, _AUDIT[machine]),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, 0),  # its number
    ]
    if machine == "x86_64":
        made += [(_AT_LEAST, 0, 1, _X32), (_RETURN, 0, 0, _KILL)]
    for table, verdict in ((_ALLOWED, _ALLOW), (_DEADLY, _KILL)):
        for numbers in table.values():
            number = numbers[column]
            if number is not None:
                made += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, verdict)]
    made.append((_RETURN, 0, 0, _ERRNO | _EPERM))
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in made)


def confine() -> bool:
    """Install the filter in this process and say whether it holds.

    Notes
    -----
    Only what reading, answering and memory need is allowed. A call that opens a file or a socket
    or starts a program kills the process; any other fails with EPERM. False where the platform has
    no seccomp, or no table here.
    """
    machine = platform.machine()
    if not sys.platform.startswith("linux") or machine not in _AUDIT:
        return False
    instructions = ctypes.create_string_buffer(_instructions(machine))
    program = _Program((len(instructions) - 1) // 8, ctypes.addressof(instructions))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        return False
    # The call, not prctl: it alone reaches the threads that a BLAS may have started.
    number = ctypes.c_long(_SECCOMP[machine])
    answer = libc.syscall(
        number, ctypes.c_uint(_SET_MODE_FILTER), ctypes.c_uint(_ALL_THREADS), ctypes.byref(program)
    )
    return bool(answer == 0)


_IDLE_S: Final = 300.0
NO_MEMORY: Final = 12
SCRATCH_NBYTES: Final = 2**21
"""Tensors up to this size in all go through memory that parent and child keep mapped.

One exchange less for each file, and no page that has to be made first.
"""
# One value of each kind, so that every codec and every branch is loaded before the door closes.
_WARM: Final = (
    b"(dp0\nVa\np1\nI1\nsS'b'\np2\nL1L\nsVc\nF1.5\ns.",
    b"\x80\x02}q\x00(X\x01\x00\x00\x00aq\x01c_codecs\nencode\nq\x02X\x02\x00\x00\x00\xc3\xbfq\x03"
    b"X\x06\x00\x00\x00latin1q\x04\x86Rq\x05X\x01\x00\x00\x00bq\x06cos\nsystem\nu.",
    b"\x80\x04\x8c\x08\xed\xa0\x80xyzw\x94.",
    b"\x80\x04\x95",
)


def run(descriptor: int, scratch_descriptor: int) -> None:
    """Serve conversions on a socket until the other end closes it."""
    channel = Channel.of(descriptor)
    scratch = np.frombuffer(mmap.mmap(scratch_descriptor, SCRATCH_NBYTES), np.uint8)
    os.close(scratch_descriptor)
    channel.set_timeout(_IDLE_S)
    for data in _WARM:
        try:
            read(memoryview(data), PickleLimits(time_s=5))
        except MMFormatError as error:
            _error(error)
    exchange.dump([1.5, "a", b"b"], [])
    gc.collect()
    gc.freeze()  # what is loaded now stays; no collection has to look at it
    _rlimits()
    channel.send({"seccomp": confine()})
    while True:
        try:
            request, _, descriptors = channel.receive_with_descriptors()
        except (ChannelClosedError, OSError):
            return
        try:
            _serve(channel, request, descriptors, scratch)
        except (ChannelClosedError, OSError):
            return
        except MemoryError:
            # Not as a traceback: printing one opens the source, and that ends the process.
            os._exit(NO_MEMORY)
        finally:
            for number in descriptors:
                os.close(number)


def _rlimits() -> None:
    for limit, value in (
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_NOFILE, 16),
    ):
        resource.setrlimit(limit, (value, value))


@functools.lru_cache(maxsize=1)
def _limits(text: str) -> PickleLimits:
    return PickleLimits(**json.loads(text))


def _serve(
    channel: Channel,
    request: dict[str, Any],
    descriptors: list[int],
    scratch: npt.NDArray[np.uint8],
) -> None:
    limits = _limits(request["limits"])
    maps: list[mmap.mmap] = []
    try:
        views = []
        for number in descriptors:
            size = os.fstat(number).st_size
            if not size:
                views.append(memoryview(b""))
                continue
            maps.append(mmap.mmap(number, size, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ))
            views.append(memoryview(maps[-1]))
        buffers = [views[1][start:stop] for start, stop in request["buffers"]]
        reading = read(views[0], limits, buffers)
        tensors = reading.found.tensors
        offsets, total = layout(tensors)
        tree = exchange.dump(reading.roots, tensors)
        answer = _answer(reading, offsets, total)
        answer["scratch"] = total <= len(scratch)
        if answer["scratch"]:
            _fill(scratch, tensors, offsets, Lander(tensors))
        channel.send(answer, [tree])
        if answer["scratch"]:
            return
    except MMFormatError as error:
        channel.send({"error": _error(error)})
        return
    except (MemoryError, RecursionError) as error:
        channel.send({"memory": type(error).__name__})
        return
    _land(channel, tensors, offsets, total, maps)


def _fill(
    target: npt.NDArray[np.uint8],
    tensors: list[Tensor],
    offsets: list[int],
    lander: Lander,
) -> None:
    for tensor, offset in zip(tensors, offsets, strict=True):
        lander.land(tensor, target[offset : offset + tensor.nbytes])


def _answer(reading: Reading, offsets: list[int], total: int) -> dict[str, Any]:
    return {
        "container": reading.container,
        "protocol": reading.protocol,
        "names": reading.names,
        "offsets": offsets,
        "nbytes": total,
    }


def _error(error: MMFormatError) -> dict[str, Any]:
    return {
        "class": type(error).__name__,
        "message": error.reason,
        "path": error.path,
        "hint": error.hint,
        "code": error.code,
    }


def _land(
    channel: Channel,
    tensors: list[Tensor],
    offsets: list[int],
    total: int,
    maps: list[mmap.mmap],
) -> None:
    _, _, (number,) = channel.receive_with_descriptors()
    try:
        block = mmap.mmap(number, total)
        target = np.frombuffer(block, np.uint8)
        try:
            file = maps[0] if maps else None
            _fill(target, tensors, offsets, Lander(tensors, file, block=block))
            answer: dict[str, Any] = {"done": True}
        except MMFormatError as error:
            answer = {"error": _error(error)}
        del target
        # The parent seals the block against writing, which fails while a mapping is left.
        block.close()
    finally:
        os.close(number)
    channel.send(answer)


if __name__ == "__main__":
    run(int(sys.argv[1]), int(sys.argv[2]))
