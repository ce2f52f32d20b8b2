"""What memory the container may use: shared memory counts against it, too."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Final, NamedTuple

__all__ = ["in_container", "memory_left_nbytes", "memory_limit_nbytes", "memory_nbytes"]

_CGROUPS: Final = Path("/proc/self/cgroup")
_MOUNT: Final = Path("/sys", "fs", "cgroup")
_MACHINE: Final = Path("/proc/meminfo")
_MARKS: Final = (Path("/.dockerenv"), Path("/run/.containerenv"))
_UNLIMITED_FROM: Final = 2**60
"""Version 1 writes "no limit" as a number just under 2**63."""


def memory_limit_nbytes(*, cgroups: Path = _CGROUPS, mount: Path = _MOUNT) -> int | None:
    """Return the tightest memory limit of this process's control groups; None without one.

    Parameters
    ----------
    cgroups : path
        Which groups this process is in.
    mount : path
        Where the groups are.
    """
    limits = [_read(group / files.limit) for group, files in _groups(cgroups, mount)]
    return min((limit for limit in limits if limit is not None), default=None)


def memory_left_nbytes(
    *, cgroups: Path = _CGROUPS, mount: Path = _MOUNT, machine: Path = _MACHINE
) -> int | None:
    """Return what may be taken before the kernel kills; None where nothing says so.

    Parameters
    ----------
    cgroups, mount
        As for :func:`memory_limit_nbytes`.
    machine : path
        What the machine has left, whoever is limited to what.

    Notes
    -----
    Pages of files count as left: the kernel drops them first. Those of shared memory do not.
    """
    left = []
    for group, files in _groups(cgroups, mount):
        limit, used = _read(group / files.limit), _read(group / files.used)
        if limit is not None and used is not None:
            stat = _numbers(group / "memory.stat")
            droppable = sum(stat.get(name, 0) for name in files.droppable)
            left.append(max(0, limit - max(0, used - droppable)))
    here = _numbers(machine)
    if "MemAvailable:" in here:
        left.append((here["MemAvailable:"] + here.get("SwapFree:", 0)) * 1024)
    return min(left, default=None)


def memory_nbytes() -> int | None:
    """Return the machine's memory; None where it cannot be asked."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return None


def in_container() -> bool:
    """Say whether docker, podman or Kubernetes started this; others leave no mark."""
    return "KUBERNETES_SERVICE_HOST" in os.environ or any(mark.exists() for mark in _MARKS)


class _Files(NamedTuple):
    """What the files of one version of control groups are called."""

    limit: str
    used: str
    droppable: tuple[str, ...]


_VERSION_2: Final = _Files("memory.max", "memory.current", ("active_file", "inactive_file"))
_VERSION_1: Final = _Files(
    "memory.limit_in_bytes",
    "memory.usage_in_bytes",
    ("total_active_file", "total_inactive_file"),
)


def _groups(cgroups: Path, mount: Path) -> Iterator[tuple[Path, _Files]]:
    """Yield every group that bounds this process's memory, the innermost first."""
    try:
        lines = cgroups.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if controllers == "":
            root, files = mount, _VERSION_2
        elif "memory" in controllers.split(","):
            root, files = mount / "memory", _VERSION_1
        else:
            continue
        # A container often sees its own group as the root, so the path may not be there at all.
        inner = PurePosixPath(group).relative_to("/")
        yield from ((root / part, files) for part in (inner, *inner.parents))


def _numbers(path: Path) -> dict[str, int]:
    """Return a file of names and numbers, as the kernel writes them; empty when there is none."""
    try:
        rows = [line.split() for line in path.read_text(encoding="ascii").splitlines()]
    except (OSError, ValueError):
        return {}
    return {row[0]: int(row[1]) for row in rows if len(row) > 1 and row[1].isdecimal()}


def _read(path: Path) -> int | None:
    try:
        limit = int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):  # not there, or "max"
        return None
    return limit if limit < _UNLIMITED_FROM else None
