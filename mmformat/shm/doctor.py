"""Work out what size of shared memory is needed, and what this container gives."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mmformat.errors import TransportError
from mmformat.shm.cgroup import in_container, memory_limit_nbytes, memory_nbytes
from mmformat.shm.create import room_hint
from mmformat.shm.layout import MAX_READERS, MAX_SLOTS, Layout, page_ceiling
from mmformat.shm.segment import SHM_DIRECTORY
from mmformat.shm.sweep import list_segments

__all__ = ["Diagnosis", "diagnose", "needed_nbytes"]

_HEADROOM: Final = 1.25
"""Slots of mixed sizes come and go; a quarter more keeps a large one from waiting for a gap."""
_SLOTS_PER_REQUEST: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """Say what is needed, what there is, and what to change.

    Parameters
    ----------
    arena_nbytes : int
        What to give to ``Arena.create(nbytes=...)``.
    segment_nbytes : int
        What that takes in the directory, tables included.
    directory_nbytes, free_nbytes : int
        What the directory has, and what of it is free.
    dead_nbytes : int
        What dead segments of this user hold; the next start, or ``mmformat shm gc``, frees it.
    memory_limit_nbytes : int or None
        The container's memory limit, which shared memory counts against; None without one.
    advice : tuple of str
        What to change; empty when everything is enough.
    """

    arena_nbytes: int
    segment_nbytes: int
    directory: str
    directory_nbytes: int
    free_nbytes: int
    dead_nbytes: int
    memory_limit_nbytes: int | None
    advice: tuple[str, ...]

    @property
    def is_enough(self) -> bool:
        """Whether nothing has to be changed."""
        return not self.advice


def needed_nbytes(*, requests: int, request_nbytes: int) -> int:
    """Return the size of an arena for so many requests at once, with room to move.

    Examples
    --------
    >>> needed_nbytes(requests=32, request_nbytes=25_800_000)
    1032028160
    """
    return page_ceiling(int(requests * page_ceiling(request_nbytes) * _HEADROOM))


def _more_room(directory: Path, wanted: int) -> str:
    gibibytes = -(-wanted // 2**30)
    if directory != SHM_DIRECTORY:
        return room_hint(directory)
    memory = memory_nbytes()
    if memory is not None and wanted > memory:
        # No option makes more of it than the machine has.
        return (
            f"this machine has {memory:,} bytes of memory, less than the arena: fewer requests at "
            "once, smaller images, or backing='file' in a directory on a disk"
        )
    if in_container():
        return (
            f"give the container more: docker run --shm-size={gibibytes}g (or --ipc=host); in "
            f"Kubernetes an emptyDir with medium: Memory and sizeLimit: {gibibytes}Gi mounted at "
            f"{SHM_DIRECTORY}; or choose backing='memfd', which needs no directory, or "
            "backing='file'"
        )
    return (
        f"mount -o remount,size={gibibytes}G /dev/shm; or choose backing='memfd', which needs no "
        "directory, or backing='file'"
    )


def diagnose(
    *, tp: int, requests: int, request_nbytes: int, directory: Path = SHM_DIRECTORY
) -> Diagnosis:
    """Hold what is needed against what the directory and the container give.

    Parameters
    ----------
    tp : int
        Ranks that read.
    requests : int
        How many requests are between put and the last release at once.
    request_nbytes : int
        Bytes of one encoded request.
    directory : path
        Where the arena would be.

    Raises
    ------
    TransportError
        When there is no such directory, or for numbers that cannot be.
    """
    if not 1 <= tp <= MAX_READERS or requests < 1 or request_nbytes < 1:
        raise TransportError(
            f"expected 1 to {MAX_READERS} ranks and positive sizes, got {tp}, {requests}, "
            f"{request_nbytes}",
            code="arena-argument",
        )
    arena = needed_nbytes(requests=requests, request_nbytes=request_nbytes)
    segment = Layout(
        ranks=tp,
        slots=min(MAX_SLOTS, max(1024, requests * _SLOTS_PER_REQUEST)),
        data_nbytes=arena,
        producer_pid=0,
        producer_start=0,
        created_ns=0,
        segment_id=bytes(16),
        boot_id=bytes(16),
    ).segment_nbytes
    dead = sum(info.nbytes for info in list_segments(directory) if info.dead)
    there = os.statvfs(directory)
    free = there.f_bavail * there.f_frsize
    limit = memory_limit_nbytes()
    advice = []
    if segment > free + dead:
        advice.append(_more_room(directory, segment))
    elif segment > free:
        advice.append("run `mmformat shm gc`: dead segments hold the room that is missing")
    if limit is not None and segment > limit:
        advice.append(
            f"raise the container's memory limit above {segment:,} bytes: shared memory counts "
            "against it (docker run --memory, resources.limits.memory)"
        )
    return Diagnosis(
        arena_nbytes=arena,
        segment_nbytes=segment,
        directory=str(directory),
        directory_nbytes=there.f_blocks * there.f_frsize,
        free_nbytes=free,
        dead_nbytes=dead,
        memory_limit_nbytes=limit,
        advice=tuple(advice),
    )
