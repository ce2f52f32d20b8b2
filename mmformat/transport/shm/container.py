"""What memory the container may use: shared memory counts against it, too."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath
from typing import Final

__all__ = ["in_container", "memory_limit_nbytes", "memory_nbytes"]

_CGROUPS: Final = Path("/proc/self/cgroup")
_MOUNT: Final = Path("/sys", "fs", "cgroup")
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
    found = []
    try:
        lines = cgroups.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if controllers == "":
            root, file = mount, "memory.max"
        elif "memory" in controllers.split(","):
            root, file = mount / "memory", "memory.limit_in_bytes"
        else:
            continue
        # A container often sees its own group as the root, so the path may not be there at all.
        inner = PurePosixPath(group).relative_to("/")
        found += [_read(root / part / file) for part in (inner, *inner.parents)]
    return min((limit for limit in found if limit is not None), default=None)


def memory_nbytes() -> int | None:
    """Return the machine's memory; None where it cannot be asked."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return None


def in_container() -> bool:
    """Say whether docker, podman or Kubernetes started this; others leave no mark."""
    return "KUBERNETES_SERVICE_HOST" in os.environ or any(mark.exists() for mark in _MARKS)


def _read(path: Path) -> int | None:
    try:
        limit = int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):  # not there, or "max"
        return None
    return limit if limit < _UNLIMITED_FROM else None
