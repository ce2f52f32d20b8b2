"""A rank's side of an arena: attach, map a sealed slot, release it."""

from __future__ import annotations

import mmap
import os
import time
import weakref
from collections import deque
from types import TracebackType
from typing import Final, Self

from mmformat.errors import StaleHandleError, TransportError
from mmformat.model.arguments import check_path, check_type
from mmformat.shm import fork, liveness, segment
from mmformat.shm.failpoints import step
from mmformat.shm.handle import Handle
from mmformat.shm.hold import Hold
from mmformat.shm.mapping import Mapping
from mmformat.shm.metrics import Metrics, metrics_of
from mmformat.shm.reader_state import Claims
from mmformat.shm.segment import SHM_DIRECTORY, Segment

__all__ = ["ShmReader"]

_NEVER_UNMAPPED: Final[list[mmap.mmap]] = []


class ShmReader:
    """Read the slots of one segment as one rank.

    Made by :meth:`attach`. A context manager; views that outlive it stay readable, and its place
    is given back when the last of them is gone.

    Examples
    --------
    >>> from mmformat.shm import ShmArena
    >>> with ShmArena.create(nbytes=2**20, ranks=1) as arena:
    ...     slot = arena.reserve(5)
    ...     slot.view[:] = b"hello"
    ...     handle = slot.seal()
    ...     with ShmReader.attach(handle, rank=0) as reader:
    ...         bytes(reader.map(handle))
    b'hello'
    """

    def __init__(self, opened: Segment, rank: int, metrics: Metrics | None = None) -> None:
        self.name = opened.name
        self.rank = rank
        self._segment = opened
        self._metrics = metrics
        self._claims = Claims(opened, rank)
        self._mappings: weakref.WeakSet[Mapping] = weakref.WeakSet()
        self._data_mappings: weakref.WeakSet[mmap.mmap] = weakref.WeakSet()
        self._stuck: deque[Mapping] = deque()
        fork.watch(self)

    @classmethod
    def attach(
        cls,
        name_or_handle: str | Handle,
        *,
        rank: int,
        directory: str | os.PathLike[str] = SHM_DIRECTORY,
        registry: object | None = None,
    ) -> Self:
        """Open a segment as the rank with this number.

        Parameters
        ----------
        name_or_handle : str or Handle
            The segment, by the arena's name or by any handle of it.
        rank : int
            The rank, from 0.
        directory : path
            Where the segment lies.
        registry : prometheus_client.CollectorRegistry, optional
            Where to count how long gets take.

        Raises
        ------
        TransportError
            With code ``segment-name``, ``segment-gone``, ``segment-memfd`` (its descriptor is
            needed), ``segment-unsafe``, ``segment-magic``, ``segment-version``, ``segment-crc``,
            ``segment-size`` or ``segment-creating`` when the segment is not to be trusted,
            ``producer-gone`` when nobody writes it any more, ``reader`` when it has no such rank,
            ``reader-taken`` when that rank is attached, ``arena-argument`` for a wrong type.
        StaleHandleError
            When a handle's segment has been replaced by another of the same name.

        Notes
        -----
        A rank that was never attached gets everything that was sealed since the segment exists. A
        rank that was, and died or detached, starts anew: older handles are stale for it.
        """
        _check_rank(rank)
        handle = name_or_handle if isinstance(name_or_handle, Handle) else None
        name = name_or_handle.name if isinstance(name_or_handle, Handle) else name_or_handle
        place = check_path(directory, name="directory", error=TransportError, code="arena-argument")
        opened = segment.open_path(name, directory=place)
        if handle is not None and handle.segment_id != opened.layout.segment_id:
            opened.close()
            raise StaleHandleError(f"expected a handle of the present {name}, got an old one")
        return cls._enter(opened, rank, metrics_of(registry))

    @classmethod
    def attach_fd(cls, fd: int, *, rank: int, registry: object | None = None) -> Self:
        """Open the segment behind a descriptor that was sent over a Unix socket; it is duplicated.

        Raises
        ------
        TransportError
            As :meth:`attach`; ``segment-unsafe`` also when the descriptor is none.
        """
        _check_rank(rank)
        check_type(fd, int, "a descriptor", name="fd", error=TransportError, code="arena-argument")
        try:
            duplicate = os.dup(fd)
        except (OSError, OverflowError) as error:
            raise TransportError(
                f"expected an open descriptor, got {fd}: {error}",
                path="$.fd",
                hint="receive it with socket.recv_fds, and keep it open until here",
                code="segment-unsafe",
            ) from error
        opened = segment.open_fd(duplicate, name="mmf-memfd")
        return cls._enter(opened, rank, metrics_of(registry))

    @classmethod
    def _enter(cls, opened: Segment, rank: int, metrics: Metrics | None) -> Self:
        try:
            step("attach.opened")
            if not 0 <= rank < opened.layout.ranks:
                raise TransportError(
                    f"expected reader 0 to {opened.layout.ranks - 1}, got {rank}", code="reader"
                )
            if not liveness.try_lock(opened.lock_fd, liveness.rank_byte(rank)):
                raise TransportError(
                    f"expected rank {rank} to be free, got one that is attached",
                    hint="each rank attaches once; give every process its own number",
                    code="reader-taken",
                )
            step("attach.locked")
            # Asked after the lock is held: no sweep can begin now.
            if not liveness.is_locked(opened.lock_fd, liveness.PRODUCER_BYTE):
                raise TransportError(
                    f"expected a living producer of {opened.name}, got a segment it left",
                    hint="attach to the segment of the producer that took over",
                    code="producer-gone",
                )
            self = cls(opened, rank, metrics)
        except BaseException as error:
            opened.close()
            if isinstance(error, OSError) and not isinstance(error, TransportError):
                raise TransportError(f"expected to map {opened.name}, got: {error}") from error
            raise
        self._claims.announce()
        return self

    @property
    def producer_alive(self) -> bool:
        """Whether the producer still lives; what it sealed stays readable if not."""
        self._claims.check_open()
        return liveness.is_locked(self._segment.lock_fd, liveness.PRODUCER_BYTE)

    def map(self, handle: Handle) -> Mapping:
        """Return a private, writable view of a slot's pages, made for this call.

        Raises
        ------
        StaleHandleError
            When the handle's content is gone, was released here, or was never granted to this rank.
        TransportError
            With code ``handle`` for one that contradicts the segment, ``closed`` or ``forked``;
            ``map`` when there is no room in the address space: the slot is held, try again.

        Notes
        -----
        **Copies**: none; a page is copied when it is first written to. **Lifetime**: the pages stay
        until the last tensor or view over the result is collected, then the slot is released.
        """
        started_s = time.monotonic()
        self._retry_stuck()
        self._claims.claim(handle)
        try:
            step("map.checked")
            mapping = Mapping.of(handle, fd=self._segment.fd)
        except BaseException as error:
            self._claims.withdraw((handle.slot, handle.generation))
            if isinstance(error, OSError | ValueError):
                raise TransportError(
                    f"expected to map {handle.nbytes:,} bytes, got: {error}", code="map"
                ) from error
            raise
        # Out of the try: an interrupt in between may keep the slot, never release it twice.
        mapping.belong_to(self, handle)
        self._mappings.add(mapping)
        step("map.mapped")
        if not self._claims.is_current(handle):
            raise StaleHandleError(f"expected slot {handle.slot} to stay as it was, got it reused")
        if self._metrics is not None:
            self._metrics.get_s.observe(time.monotonic() - started_s)
        return mapping

    def map_data(self) -> tuple[mmap.mmap, int]:
        """Map all slots as every process sees them; also return where in the segment they begin.

        Only to be read: CUDA demands a writable mapping of what it pins. What lies in a slot is
        this rank's to read while it has a :meth:`hold` of it.

        Raises
        ------
        TransportError
            With code ``closed``, ``forked``, or ``map`` when there is no room in the address space.

        Notes
        -----
        **Copies**: none. **Lifetime**: the caller's; it may outlive the reader.
        """
        self._claims.check_open()
        layout = self._segment.layout
        try:
            mapping = self._segment.map_shared(
                offset=layout.data_offset, nbytes=layout.data_nbytes, writable=True
            )
            self._data_mappings.add(mapping)
        except (OSError, ValueError) as error:
            raise TransportError(
                f"expected to map {layout.data_nbytes:,} bytes, got: {error}", code="map"
            ) from error
        return mapping, layout.data_offset

    def hold(self, handle: Handle) -> Hold:
        """Keep a slot's content where it is, for a reader that has its own way to the bytes.

        Raises
        ------
        StaleHandleError, TransportError
            As :meth:`map`.
        """
        self._retry_stuck()
        return Hold(self._claims, handle)

    def release(self, handle: Handle) -> None:
        """Say that this rank needs the slot no more, whether it ever mapped it or not.

        What this rank released already, by this call or by the last view's end, stays released.

        Raises
        ------
        TransportError
            With code ``views-alive`` while a tensor or view of it exists here; its collection
            releases the slot without this call.
        StaleHandleError
            When the slot has other content by now, or was never granted to this rank.
        """
        self._retry_stuck()
        self._claims.release(handle)

    def close(self) -> None:
        """Detach, when the last view is gone; what was not mapped is released. Only once."""
        self._retry_stuck()
        self._claims.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_claims"):
            self._claims.forget()

    def __repr__(self) -> str:
        claims = self._claims
        return f"ShmReader({self.name}, rank {self.rank}, {len(claims)} slots, {claims.state})"

    def _retry_stuck(self) -> None:
        for _ in range(len(self._stuck)):
            mapping = self._stuck.popleft()
            try:
                mapping.close()
            except BufferError:
                self._stuck.append(mapping)

    def before_fork(self) -> None:
        """Copy what is mapped, so that the child's views never show another message."""
        self._claims.pause()
        for mapping in list(self._mappings):
            mapping.make_private()

    def after_fork(self) -> None:
        """Go on."""
        self._claims.resume()

    def after_fork_in_child(self) -> None:
        """Give up the rank: it is the parent's."""
        # Their pages are not there in the child, and the addresses may be another's by the time
        # that they would be unmapped: they are kept for good.
        _NEVER_UNMAPPED.extend(self._data_mappings)
        self._claims.disown()


def _check_rank(rank: object) -> None:
    if type(rank) is not int:
        raise TransportError(
            f"expected an int, got {type(rank).__name__}", path="$.rank", code="arena-argument"
        )
