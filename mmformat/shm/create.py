"""Create a segment: preallocated, touched, private and locked."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import secrets
import time
from pathlib import Path
from typing import Final

from mmformat.errors import ArenaFullError, TransportError
from mmformat.shm import liveness
from mmformat.shm.cgroup import memory_left_nbytes, memory_limit_nbytes
from mmformat.shm.failpoints import step
from mmformat.shm.fence import fence
from mmformat.shm.handle import check_name
from mmformat.shm.huge_pages import gather_pages, plant_pages
from mmformat.shm.layout import PAGE, READY, STATE_WORD, Layout, page_ceiling
from mmformat.shm.segment import (
    MEMFD_PREFIX,
    SHM_DIRECTORY,
    Segment,
    lock_description,
)
from mmformat.shm.sweep import describe

__all__ = ["create", "room_hint"]

_POPULATE_WRITE: Final = 23
_CHUNK_NBYTES: Final = 2**26
_SWEPT_AT_MOST: Final = 8


def room_hint(directory: Path) -> str:
    """Say what can be done about a directory that is too small."""
    if directory == SHM_DIRECTORY:
        return (
            "give the container more: docker run --shm-size=8g (or --ipc=host); in Kubernetes an "
            "emptyDir with medium: Memory mounted at /dev/shm; or choose backing='memfd' or "
            "'file'; `mmformat shm doctor` computes the size"
        )
    return f"make {directory} larger or choose another directory"


def _check_room(directory: Path, wanted: int) -> None:
    try:
        free = os.statvfs(directory)
    except OSError as error:
        raise TransportError(
            f"expected a directory at {directory}, got: {error.strerror}", code="segment-directory"
        ) from error
    available = free.f_bavail * free.f_frsize
    if wanted > available:
        raise ArenaFullError(
            f"expected {wanted:,} bytes of room in {directory}, got {available:,} free "
            f"of {free.f_blocks * free.f_frsize:,}",
            hint=room_hint(directory),
        )


def _check_memory(wanted: int) -> None:
    # Over its limit a container is not refused, it is killed: ask before the pages are taken.
    limit = memory_limit_nbytes()
    if limit is not None and wanted > limit:
        raise ArenaFullError(
            f"expected {wanted:,} bytes within the container's memory limit, got {limit:,}",
            hint="shared memory counts against it: raise it (docker run --memory, Kubernetes "
            "resources.limits.memory), or choose backing='file' on a disk",
        )
    left = memory_left_nbytes()
    if left is not None and wanted > left:
        raise ArenaFullError(
            f"expected {wanted:,} bytes of memory to be left, got {left:,}"
            + ("" if limit is None else f" within the container's limit of {limit:,}"),
            hint="shared memory is memory: end what takes it, raise the limit (docker run "
            "--memory, Kubernetes resources.limits.memory), create a smaller arena, or choose "
            "backing='file' on a disk",
        )


def _allocate(fd: int, nbytes: int, directory: Path | None) -> None:
    try:
        if directory in (None, SHM_DIRECTORY):
            plant_pages(fd, nbytes)
            gather_pages(fd, nbytes)
        os.posix_fallocate(fd, 0, nbytes)  # what is left: tmpfs is lazy, and the rest a SIGBUS
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.ENOMEM, errno.EDQUOT, errno.EFBIG):
            raise
        raise ArenaFullError(
            f"expected {nbytes:,} bytes of room in {directory or 'memory'}, got: {error.strerror}",
            hint=room_hint(directory or SHM_DIRECTORY),
        ) from error


def _touch(mapping: mmap.mmap) -> None:
    """Enter every page into this process's page table, so that no write faults later."""
    try:
        for start in range(0, len(mapping), _CHUNK_NBYTES):
            mapping.madvise(_POPULATE_WRITE, start, min(_CHUNK_NBYTES, len(mapping) - start))
    except OSError:  # before Linux 5.14
        for start in range(0, len(mapping), PAGE):
            mapping[start] = 0


def _who_has(path: Path) -> str:
    """Say who keeps a segment from being replaced: what nobody holds was swept before."""
    found = describe(path)
    if found is None:
        return "it is no segment of this user: choose another name"
    if found.producer_alive:
        return f"its producer lives (pid {found.producer_pid}): end it, or choose another name"
    if found.ranks_alive:
        return (
            f"its producer is dead, and {found.ranks_alive} of its ranks still hold it: restart "
            "them too, or choose another name; when they are gone the name is free"
        )
    return "it died meanwhile: create again, which removes it"


def _open_new(directory: Path, name: str | None) -> tuple[int, str, Path]:
    pid = os.getpid()
    started = liveness.start_time(pid) or 0
    fresh = f"mmf-{os.geteuid()}-{pid}-{started}-{secrets.token_hex(4)}"
    chosen = fresh if name is None else check_name(name)
    path = directory / chosen
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        fd = os.open(path, flags, 0o600)
    except FileExistsError as error:
        raise TransportError(
            f"expected no segment called {chosen}, got one",
            hint=_who_has(path),
            code="segment-exists",
        ) from error
    except OSError as error:
        raise TransportError(
            f"expected to create {path}, got: {error.strerror}", code="segment-directory"
        ) from error
    os.fchmod(fd, 0o600)  # whatever the umask says
    return fd, chosen, path


def _open_locked(directory: Path | None, name: str | None, layout: Layout) -> Segment:
    for _ in range(_SWEPT_AT_MOST):
        path: Path | None = None
        if directory is None:
            fresh = f"{MEMFD_PREFIX}{secrets.token_hex(8)}"
            chosen = check_name(fresh if name is None else name)
            fd = os.memfd_create(chosen, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            os.fchmod(fd, 0o600)
        else:
            fd, chosen, path = _open_new(directory, name)
        opened = Segment(name=chosen, path=path, layout=layout, fd=fd, lock_fd=-1)
        try:
            step("create.opened")
            opened.lock_fd = lock_description(fd)
            if liveness.try_lock(opened.lock_fd, liveness.PRODUCER_BYTE) and (
                path is None or os.fstat(fd).st_nlink > 0
            ):
                step("create.locked")
                return opened
        except BaseException:
            opened.unlink()
            opened.close()
            raise
        # A sweep saw the file before it was locked and took it for a dead one: start again.
        opened.close()
    raise TransportError("expected a segment of our own, got swept every time", code="swept")


def create(
    *,
    data_nbytes: int,
    ranks: int,
    slots: int,
    directory: Path | None,
    name: str | None = None,
) -> tuple[Segment, mmap.mmap]:
    """Create a segment, lock it as its producer, and map the whole of it.

    ``directory`` None means a memfd, which has no name that others could open.

    Raises
    ------
    ArenaFullError
        When there is not the room; nothing is left behind.
    TransportError
        When the directory or the name cannot be used.
    """
    pid = os.getpid()
    layout = Layout(
        ranks=ranks,
        slots=slots,
        data_nbytes=page_ceiling(data_nbytes),
        producer_pid=pid,
        producer_start=liveness.start_time(pid) or 0,
        created_ns=time.time_ns(),
        segment_id=secrets.token_bytes(16),
        boot_id=liveness.boot_id(),
    )
    if directory is not None:
        _check_room(directory, layout.segment_nbytes)
    if directory in (None, SHM_DIRECTORY):
        _check_memory(layout.segment_nbytes)
    opened = _open_locked(directory, name, layout)
    try:
        _allocate(opened.fd, layout.segment_nbytes, directory)
        if directory is None:
            seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
            fcntl.fcntl(opened.fd, fcntl.F_ADD_SEALS, seals)
        step("create.allocated")
        mapping = opened.map_shared(offset=0, nbytes=layout.segment_nbytes, writable=True)
        _touch(mapping)
        header = layout.pack()
        mapping[: len(header)] = header
        step("create.header")
        fence()  # the header before the word that declares it
        with memoryview(mapping).cast("Q") as words:
            words[STATE_WORD] = READY
        step("create.ready")
    except BaseException as error:
        opened.unlink()
        opened.close()
        if isinstance(error, OSError) and not isinstance(error, TransportError):
            raise TransportError(
                f"expected to create {opened.name}, got: {error}", code="segment-create"
            ) from error
        raise
    return opened, mapping
