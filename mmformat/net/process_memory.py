"""A bound on a mirror process's own memory, whatever a publisher makes Arrow expand."""

from __future__ import annotations

import resource
from pathlib import Path

__all__ = ["bound_memory"]


def bound_memory(nbytes: int) -> None:
    """Let this process take so many bytes more than now, besides shared memory.

    A publisher that is admitted may send chunks compressed by Zstandard, which Arrow expands
    before anybody can look: in a process with this bound they become an error instead of all of
    the host's memory. The arena does not count.

    Parameters
    ----------
    nbytes : int
        Bytes; a few hundred MiB are plenty for a mirror.

    Notes
    -----
    It sets ``RLIMIT_DATA`` of the whole process: call it in a process that is only a mirror, as
    ``mmformat net mirror`` does.
    """
    pages = int(Path("/proc/self/statm").read_text().split()[5])
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    soft = pages * resource.getpagesize() + nbytes
    resource.setrlimit(
        resource.RLIMIT_DATA, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard)
    )
