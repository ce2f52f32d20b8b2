"""Inputs whose tensors are on a GPU already, handed to every rank's GPU without the host."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

import torch

from mmformat.codec import encode
from mmformat.cuda.copy_stream import lane_of
from mmformat.cuda.decode import decode_with
from mmformat.cuda.device import resolve_device
from mmformat.cuda.device_parts import Plan, copy_parts, joined
from mmformat.cuda.event_callbacks import Releases
from mmformat.cuda.ipc import CudaPool, CudaPoolReader
from mmformat.cuda.metrics import RankMetrics
from mmformat.cuda.pending_inputs import PendingInputs
from mmformat.cuda.stats import PlacementStats
from mmformat.model.item import MultimodalInputs
from mmformat.model.limits import Limits
from mmformat.shm import ArenaStats, Handle

__all__ = ["DevicePool", "DevicePoolReader"]


class DevicePool:
    """Put inputs into memory of the producer's GPU, from which N ranks copy to their own.

    Parameters
    ----------
    nbytes : int
        Of the pool; each message takes whole granules of 256 KiB.
    ranks : int
        How many ranks read every message, 1 to 64.
    device : str or torch.device, default "cuda"
        Where the pool is.

    Raises
    ------
    PlacementError, TransportError
        When the device cannot be had, has not the room, or cannot share its memory.

    Notes
    -----
    **Lifetime**: a message's memory is used again when every living rank has copied it, or died.
    """

    def __init__(self, *, nbytes: int, ranks: int, device: torch.device | str = "cuda") -> None:
        self._device = resolve_device(device)
        self._pool = CudaPool(nbytes=nbytes, ranks=ranks, device=self._device.index)

    @property
    def name(self) -> str:
        """What :class:`DevicePoolReader` takes."""
        return self._pool.name

    @property
    def ipc(self) -> bytes:
        """CUDA's handle of the pool's memory, which ranks are told with each message."""
        return self._pool.ipc

    def put(self, inputs: MultimodalInputs, *, timeout_s: float = 0.0) -> Handle:
        """Copy the tensors into the pool and return the handle to announce.

        Parameters
        ----------
        inputs : MultimodalInputs
            Tensors on the pool's device, another device, or the CPU.
        timeout_s : float
            How long to wait for room.

        Raises
        ------
        ArenaFullError
            When there is no room in time, or never will be.
        EncodeError, ModelError
            When a value cannot travel.

        Notes
        -----
        **Copies**: each tensor byte once, on the device; tensors of at most 12 bytes come to the
        host. Waits until the current stream has written them.
        """
        plan = Plan()
        message = encode(plan.without_bytes(inputs))
        head, writes = plan.split(message)
        slot = self._pool.reserve(message.nbytes, head, timeout_s=timeout_s)
        try:
            copy_parts(writes, slot.address, device=self._device)
            return slot.seal()
        finally:
            slot.abandon()

    def reap(self) -> int:
        """Take back what dead ranks held, and return how many messages that were."""
        return self._pool.reap()

    def stats(self) -> ArenaStats:
        """Return what the bookkeeping arena holds: a page there is 256 KiB here."""
        return self._pool.stats()

    def close(self) -> None:
        """Free the pool; ranks must be done by then."""
        self._pool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class DevicePoolReader:
    """Copy messages of a producer's pool to this rank's GPU.

    Parameters
    ----------
    name : str
        Of the pool.
    rank : int
        This rank's number; each process has its own, and none is the producer's process.
    device : str or torch.device
        This rank's device. The pool is opened from here, so the rank has no context elsewhere.
    registry : prometheus_client.CollectorRegistry, optional
        Where to register what this rank gets, and how long that takes.

    Raises
    ------
    PlacementError, TransportError
        When the device or the pool cannot be had.
    """

    def __init__(
        self,
        name: str,
        *,
        rank: int,
        device: torch.device | str,
        registry: object | None = None,
    ) -> None:
        self._device = resolve_device(device)
        self._pool = CudaPoolReader(name, rank=rank, device=self._device.index)
        self._lane = lane_of(self._device)
        self._releases = Releases()
        self.stats = PlacementStats()
        self._metrics = RankMetrics(self.stats, registry, arena=name, device=str(self._device))

    def get(
        self, handle: Handle | bytes, *, limits: Limits | None = None, expand: bool = True
    ) -> MultimodalInputs:
        """Return the inputs of a handle, on this rank's device.

        Parameters
        ----------
        handle : Handle or bytes
            What the producer announced.
        limits, expand
            As in :func:`mmformat.decode`.

        Raises
        ------
        StaleHandleError
            When the content is gone, or this rank got it already.
        TransportError
            With code ``producer-gone``, or ``peer-access`` when this device cannot reach the
            producer's.
        DecodeError
            When the slot holds no valid message.

        Notes
        -----
        **Copies**: every byte once, from device to device. **Lifetime**: the tensors are this
        rank's own; the producer's memory is released when the copy is done.
        """
        return self.get_async(handle, limits=limits, expand=expand).result()

    def get_async(
        self, handle: Handle | bytes, *, limits: Limits | None = None, expand: bool = True
    ) -> PendingInputs:
        """Start the copy, and return what will hold the inputs.

        Raises
        ------
        StaleHandleError, TransportError, DecodeError
            As :meth:`get`.
        """
        if not isinstance(handle, Handle):
            handle = Handle.from_bytes(bytes(handle))
        bounds = Limits.of(limits)
        started_s = time.monotonic()
        extent, hold = self._pool.open(handle)
        ready = None

        def release() -> None:
            hold.release()
            self._metrics.placed(started_s)

        try:
            bounds.check("message_nbytes", extent.nbytes)
            with self._lane.side():
                buffer = torch.empty(extent.nbytes, dtype=torch.uint8, device=self._device)
                stream = torch.cuda.current_stream(self._device).cuda_stream
                self._pool.copy(extent, buffer.data_ptr(), stream=stream)
                try:
                    inputs, tensors = decode_with(
                        joined(extent.head, extent.nbytes),
                        buffer,
                        lane=self._lane,
                        limits=bounds,
                        expand=expand,
                    )
                finally:
                    ready = self._lane.mark()
        finally:
            self._releases.add(ready, release)
        self.stats.messages += 1
        self.stats.nbytes += extent.nbytes
        self._metrics.returned(started_s)
        return PendingInputs(inputs, lane=self._lane, event=ready, tensors=tensors)

    def reach(self, ipc: bytes) -> None:
        """Open the pool's memory now, and not at the first message.

        Raises
        ------
        TransportError
            With code ``peer-access`` when this device cannot reach the producer's.
        """
        self._pool.reach(ipc)

    def release(self, handle: Handle | bytes) -> None:
        """Say that this rank does not want a message that it never got.

        Raises
        ------
        StaleHandleError, TransportError
            As :meth:`ArenaReader.release`.
        """
        self._pool.release(
            handle if isinstance(handle, Handle) else Handle.from_bytes(bytes(handle))
        )

    def close(self) -> None:
        """Wait for the copies under way, then detach."""
        self._releases.close()
        self._pool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
