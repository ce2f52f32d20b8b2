"""Take from this process, for good, the system calls that it does not need to read a pickle."""

from __future__ import annotations

import ctypes
import platform
import struct
import sys
from typing import Final

__all__ = ["confine"]

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
