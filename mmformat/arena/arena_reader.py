"""A rank's side of the arena: a handle in, inputs out."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Self

from mmformat.arena.arguments import check_count, check_timeout
from mmformat.arena.composed import fetch_composed, get_composed, release_composed
from mmformat.arena.device_reader import ArenaOnDevice
from mmformat.codec.decode import Library, check_library
from mmformat.cuda.copy_stream import lane_of
from mmformat.cuda.decode import decode, refuse_numpy
from mmformat.cuda.device import is_cpu, resolve_device
from mmformat.cuda.pending_inputs import PendingInputs, staged
from mmformat.cuda.stats import PlacementStats
from mmformat.errors import PlacementError, TransportError
from mmformat.model.item import MultimodalInputs
from mmformat.model.limits import Limits
from mmformat.model.message import EncodedMessage
from mmformat.shm import Handle, ShmReader
from mmformat.shm.segment import SHM_DIRECTORY

if TYPE_CHECKING:
    import torch

__all__ = ["ArenaReader"]

_NOT_YET = ("segment-gone", "segment-creating", "segment-magic", "segment-size", "reader-taken")
"""What a rank meets that starts before its producer, while the header is written, or while the
rank that had its number before it is still ending."""


class ArenaReader:
    """Read what the producer put, as one numbered rank.

    Made by :meth:`mmformat.Arena.attach`; a context manager that detaches.

    Notes
    -----
    **Lifetime**: a slot is held until the last CPU tensor made from it is collected, or until a
    device has copied it.
    """

    def __init__(
        self,
        transport: ShmReader,
        *,
        device: torch.device | None = None,
        pin: bool = True,
        registry: object | None = None,
    ) -> None:
        self._transport = transport
        self._device = device
        self._pin = pin
        self._registry = registry
        self._on_device: ArenaOnDevice | None = None
        self._prefetched: dict[Handle, tuple[object, PendingInputs]] = {}
        # The generation of each slot that a device took: releasing it is the event's business.
        self._taken: dict[int, int] = {}

    @classmethod
    def attach(
        cls,
        handle_or_name: Handle | bytes | str,
        *,
        rank: int,
        directory: str | os.PathLike[str] = SHM_DIRECTORY,
        timeout_s: float = 0.0,
        device: torch.device | str | None = None,
        pin: bool = True,
        registry: object | None = None,
    ) -> Self:
        """Attach to the arena of a handle, its bytes, or its name; see :meth:`Arena.attach`."""
        check_count(rank, "rank")
        check_timeout(timeout_s)
        target = handle_or_name if isinstance(handle_or_name, str) else _handle(handle_or_name)
        deadline_s = time.monotonic() + timeout_s
        while True:
            try:
                transport = ShmReader.attach(
                    target, rank=rank, directory=directory, registry=registry
                )
                return cls.on_device(transport, device=device, pin=pin, registry=registry)
            except TransportError as error:
                if error.code not in _NOT_YET or time.monotonic() >= deadline_s:
                    raise
            time.sleep(0.005)

    @classmethod
    def on_device(
        cls,
        transport: ShmReader,
        *,
        device: torch.device | str | None = None,
        pin: bool = True,
        registry: object | None = None,
    ) -> Self:
        """Return the rank of an attached transport, whose arena is pinned for a device if any.

        Raises
        ------
        PlacementError
            When there is no such device; the transport is closed then.
        """
        try:
            wanted = None if device is None or is_cpu(device) else resolve_device(device)
            self = cls(transport, device=wanted, pin=pin, registry=registry)
            if wanted is not None:
                self._open_on(wanted)
        except BaseException:
            transport.close()
            raise
        return self

    def get(
        self,
        handle: Handle | bytes | EncodedMessage,
        *,
        device: torch.device | str | None = None,
        limits: Limits | None = None,
        library: Library | None = None,
        expand: bool = True,
        out: torch.Tensor | None = None,
    ) -> MultimodalInputs:
        """Return the inputs of a handle: over the slot's own pages, or on a device.

        Parameters
        ----------
        handle : Handle, its bytes, or EncodedMessage
            What the producer announced; a message that came inline is decoded as it is.
        device : str or torch.device, optional
            Where the tensors are wanted; where the rank was attached with, else the CPU.
        limits, library, expand
            As in :func:`mmformat.decode`.
        out : uint8 torch tensor of one axis, optional
            On the device: where the message goes, ``handle.nbytes`` at least; the tensors are
            views of it. Not for a request whose items lie in slots of their own.

        Raises
        ------
        StaleHandleError
            When the content is gone, or this rank released it.
        DecodeError
            When the slot holds no valid message.
        PlacementError
            When the device cannot be had.

        Notes
        -----
        **Copies**: on the CPU none; a page that the rank writes to is copied by the kernel, and
        nobody else sees the change. To a device: every byte once over the bus, in one copy out of
        the pinned arena on a side stream; the caller's current stream waits for it, the caller
        does not. **Lifetime**: on the CPU the tensors keep the slot; the last one releases it. On
        a device they are views of one allocation, and the slot is released when the copy is done:
        a handle is got once on a device.
        """
        # Before anything is taken: a wrong argument must not cost the slot.
        if limits is not None:
            Limits.of(limits)
        check_library(library)
        source = handle if isinstance(handle, EncodedMessage) else _handle(handle)
        prefetched = self._prefetched.pop(source, None) if isinstance(source, Handle) else None
        wanted = self._device if device is None else device
        # With other arguments the slot is read again, while the prefetched inputs still hold it.
        asked = ("cpu" if wanted is None else str(wanted), limits, expand)
        if prefetched is not None and prefetched[0] == asked and library is None and out is None:
            return prefetched[1].result()
        if out is not None and (wanted is None or is_cpu(wanted)):
            raise PlacementError(
                "expected a device beside a destination, got the CPU",
                path="$.out",
                code="destination",
            )
        if wanted is not None and not is_cpu(wanted):
            refuse_numpy(library)
            pending = self.get_async(source, device=wanted, limits=limits, expand=expand, out=out)
            return pending.result()
        if isinstance(source, Handle) and source.composed:
            return get_composed(
                self._transport, source, limits=limits, library=library, expand=expand
            )
        return decode(
            self._transport.map(source) if isinstance(source, Handle) else source,
            limits=limits,
            library=library,
            expand=expand,
        )

    def get_async(
        self,
        handle: Handle | bytes | EncodedMessage,
        *,
        device: torch.device | str | None = None,
        limits: Limits | None = None,
        expand: bool = True,
        out: torch.Tensor | None = None,
    ) -> PendingInputs:
        """Start the copy to a device, and return what will hold the inputs.

        Parameters
        ----------
        handle, device, limits, expand, out
            As in :meth:`get`.

        Raises
        ------
        StaleHandleError, DecodeError, PlacementError
            As :meth:`get`.

        Notes
        -----
        The current stream waits only at :meth:`PendingInputs.result`, so that compute which was
        given to it before runs beside the copy.
        """
        source = handle if isinstance(handle, EncodedMessage) else _handle(handle)
        wanted = self._device if device is None else device
        if wanted is None or is_cpu(wanted):
            return PendingInputs(
                self.get(source, device="cpu", limits=limits, expand=expand, out=out)
            )
        target = self._device if wanted is self._device else resolve_device(wanted)
        lane = lane_of(target)
        if isinstance(source, EncodedMessage):
            return staged(source, lane=lane, limits=limits, expand=expand, out=out)
        fetch = partial(
            self._open_on(target).fetch, lane=lane, limits=limits, expand=expand, out=out
        )
        pending = (
            fetch_composed(
                self._transport,
                source,
                lane=lane,
                fetch=fetch,
                limits=limits,
                expand=expand,
                out=out,
            )
            if source.composed
            else fetch(source)
        )
        self._taken[source.slot] = source.generation
        return pending

    def prefetch(
        self,
        handles: Iterable[Handle | bytes],
        *,
        device: torch.device | str | None = None,
        limits: Limits | None = None,
        expand: bool = True,
    ) -> None:
        """Start the copies of handles that :meth:`get` will be asked for, with these options.

        Parameters
        ----------
        handles : iterable of Handle or bytes
            Each is kept, on the device, until it is got or the reader is closed.
        device, limits, expand
            As in :meth:`get`.

        Raises
        ------
        StaleHandleError, DecodeError, PlacementError
            As :meth:`get`.
        """
        if not isinstance(handles, Iterable):
            raise TransportError(
                f"expected handles, got {type(handles).__name__}",
                path="$.handles",
                code="arena-argument",
            )
        for each in handles:
            handle = _handle(each)
            if handle not in self._prefetched:
                wanted = self._device if device is None else device
                pending = self.get_async(handle, device=device, limits=limits, expand=expand)
                asked = ("cpu" if wanted is None else str(wanted), limits, expand)
                self._prefetched[handle] = (asked, pending)

    def release(self, handle: Handle | bytes) -> None:
        """Release the slot now instead of when its last tensor is collected.

        After a get to a device it does nothing: the slot goes when the copy is done.

        Raises
        ------
        TransportError
            With code ``views-alive`` while a tensor still looks at the slot.
        StaleHandleError
            When the slot has other content by now, or was never granted to this rank. A second
            release of the same handle does nothing.
        """
        handle = _handle(handle)
        self._prefetched.pop(handle, None)
        if self._taken.get(handle.slot) == handle.generation:
            del self._taken[handle.slot]
            return
        if handle.composed:
            release_composed(self._transport, handle)
        else:
            self._transport.release(handle)

    @property
    def placement(self) -> PlacementStats:
        """What went to devices, whether the arena is pinned, and why not."""
        return PlacementStats() if self._on_device is None else self._on_device.stats

    @property
    def producer_alive(self) -> bool:
        """Whether the producer still lives; what it sealed stays readable if not."""
        return self._transport.producer_alive

    def close(self) -> None:
        """Detach; slots that tensors still look at are released when these go."""
        self._prefetched.clear()
        if self._on_device is not None:
            self._on_device.close()
            self._on_device = None
        self._transport.close()

    def _open_on(self, device: torch.device) -> ArenaOnDevice:
        if self._on_device is None:
            self._on_device = ArenaOnDevice(
                self._transport, device, pin=self._pin, registry=self._registry
            )
        return self._on_device

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"ArenaReader({self._transport!r})"


def _handle(value: Handle | bytes) -> Handle:
    if isinstance(value, Handle):
        return value
    if isinstance(value, (bytes, bytearray, memoryview)):
        return Handle.from_bytes(bytes(value))
    raise TransportError(
        f"expected a handle or its bytes, got {type(value).__name__}", code="handle"
    )
