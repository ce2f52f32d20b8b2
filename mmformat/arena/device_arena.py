"""Inputs on a GPU to every rank: from device to device where that can be, else through the host."""

from __future__ import annotations

import logging
import time
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from mmformat._arrow import buffer_of
from mmformat.arena.arena import Arena
from mmformat.arena.arena_reader import ArenaReader
from mmformat.arena.arguments import check_timeout
from mmformat.codec import encode
from mmformat.cuda.device import is_cpu, resolve_device
from mmformat.cuda.pending_inputs import PendingInputs
from mmformat.errors import PlacementError, TransportError
from mmformat.model.item import MultimodalInputs
from mmformat.model.limits import Limits
from mmformat.shm import Handle

if TYPE_CHECKING:
    import torch

    from mmformat.cuda.device_pool import DevicePool, DevicePoolReader

__all__ = ["DeviceArena", "DeviceArenaReader"]

_LOG: Final = logging.getLogger("mmformat.cuda")


class DeviceArena:
    """Put inputs where every rank can get them: a pool on the GPU, or shared memory of the host.

    Parameters
    ----------
    nbytes : int
        Of the pool, and of the host's arena beside it unless ``host_nbytes`` is given.
    ranks : int
        How many ranks read every message, 1 to 64.
    device : str or torch.device, default "cuda"
        Where the pool is.
    host_nbytes : int, optional
        Of the host's arena.
    registry : prometheus_client.CollectorRegistry, optional
        Where to register metrics of the host's arena.

    Attributes
    ----------
    reason : str or None
        Why messages go through the host, when they do; a log line of ``mmformat.cuda`` says
        it, too.

    Raises
    ------
    ArenaFullError, TransportError
        When the host has not the room.

    Notes
    -----
    The pool is left alone, for good, when CUDA cannot share memory here, or when a rank attached
    that cannot reach it. So ranks attach before the first put (:meth:`wait_attached`): what was put
    into the pool before is a TransportError with code ``peer-access`` for a rank that cannot reach
    it.

    Examples
    --------
    >>> import numpy as np
    >>> import mmformat as mm
    >>> inputs = mm.MultimodalInputs(request_data={"a": np.arange(3)})
    >>> with DeviceArena(nbytes=2**21, ranks=1, device="cpu") as arena:  # a GPU is "cuda:0"
    ...     with DeviceArenaReader(arena.name, rank=0, device="cpu") as rank:
    ...         rank.get(arena.put(inputs)).request_data["a"].tolist()
    [0, 1, 2]
    """

    def __init__(
        self,
        *,
        nbytes: int,
        ranks: int,
        device: torch.device | str = "cuda",
        host_nbytes: int | None = None,
        registry: object | None = None,
    ) -> None:
        self.reason: str | None = None
        self._readers = ranks
        self._pool: DevicePool | None = None
        self._device: torch.device | None = None
        try:
            self._device = resolve_device(device)
            from mmformat.cuda.device_pool import DevicePool

            self._pool = DevicePool(nbytes=nbytes, ranks=ranks, device=self._device)
        except (PlacementError, TransportError) as error:
            if error.code not in ("cuda-ipc", "device-memory", "no-cuda") and not is_cpu(device):
                raise
            self._give_up(str(error))
        try:
            self._host = Arena.create(nbytes=host_nbytes or nbytes, ranks=ranks, registry=registry)
        except BaseException:
            if self._pool is not None:
                self._pool.close()
            raise

    @property
    def name(self) -> str:
        """What :class:`DeviceArenaReader` takes."""
        pool = self._pool
        parts = ("", "") if pool is None else (pool.name, pool.ipc.hex())
        return "|".join((self._host.name, *parts))

    def wait_attached(self, *, timeout_s: float) -> bool:
        """Wait until every rank is attached, and say whether that came to be in time."""
        check_timeout(timeout_s)
        deadline_s = time.monotonic() + timeout_s
        while self._attached() < self._readers:
            if time.monotonic() > deadline_s:
                return False
            time.sleep(0.001)
        return True

    def put(self, inputs: MultimodalInputs, *, timeout_s: float = 0.0) -> Handle:
        """Copy the tensors into the pool, or into the host's arena, and return the handle.

        Parameters
        ----------
        inputs : MultimodalInputs
            Tensors on any device, or the CPU.
        timeout_s : float
            How long to wait for room.

        Raises
        ------
        ArenaFullError
            When there is no room in time, or never will be.
        EncodeError, ModelError, TransportError
            As :meth:`DevicePool.put`.

        Notes
        -----
        **Copies**: each tensor byte once, on the device or from it to the host's arena.
        """
        if self._pool is not None and self.reason is None:
            if not self._host.stats().readers_attached:
                return self._pool.put(inputs, timeout_s=timeout_s)
            self._give_up("a rank cannot reach the pool's device")
        if self._device is None:
            return self._host.put(inputs, timeout_s=timeout_s)
        from mmformat.cuda.device_parts import Plan, copy_parts, pieces_of

        plan = Plan(shows_first_bytes=True)
        message = encode(plan.without_bytes(inputs))
        head, writes = plan.split(message)
        with self._host._transport.reserve(message.nbytes, timeout_s=timeout_s) as slot:
            for at, piece in pieces_of(head, message.nbytes):
                slot.view[at : at + len(piece)] = piece
            copy_parts(writes, buffer_of(slot.view).address, device=self._device)
            return slot.seal()

    def close(self) -> None:
        """Free the pool and remove the segment; ranks must be done by then."""
        if self._pool is not None:
            self._pool.close()
        self._host.close()

    def _attached(self) -> int:
        pool = self._pool
        in_pool = 0 if pool is None else pool.stats().readers_attached
        return in_pool + self._host.stats().readers_attached

    def _give_up(self, reason: str) -> None:
        self.reason = reason
        _LOG.warning("messages go through the host, and slower: %s", reason)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class DeviceArenaReader:
    """Get what a :class:`DeviceArena` announced, whichever way it went.

    Parameters
    ----------
    name : str
        Of the arena.
    rank : int
        This rank's number; each process has its own.
    device : str or torch.device
        This rank's device; ``"cpu"`` goes through the host.
    registry : prometheus_client.CollectorRegistry, optional
        Where to register what this rank places, and how long that takes.

    Attributes
    ----------
    reason : str or None
        Why this rank cannot reach the pool, when it cannot.

    Raises
    ------
    PlacementError, TransportError
        When the device or the arena cannot be had.
    """

    def __init__(
        self,
        name: str,
        *,
        rank: int,
        device: torch.device | str,
        registry: object | None = None,
    ) -> None:
        self.reason: str | None = None
        self._device = device
        self._number = rank
        self._registry = registry
        self._host: ArenaReader | None = None
        self._pool: DevicePoolReader | None = None
        given: object = name
        parts = given.split("|") if isinstance(given, str) else []
        if len(parts) != 3:
            raise TransportError(
                f"expected the name of a device arena, got {name!r}", code="segment-name"
            )
        self._host_name, self._pool_name, ipc = parts
        if self._pool_name and not is_cpu(device):
            self._pool = self._reach(bytes.fromhex(ipc))
        if self._pool is None:
            # This is also how the producer learns that its pool is of no use.
            self._attach_host()

    def get(
        self, handle: Handle | bytes, *, limits: Limits | None = None, expand: bool = True
    ) -> MultimodalInputs:
        """Return the inputs of a handle, on this rank's device.

        Raises
        ------
        StaleHandleError, TransportError, DecodeError
            As :meth:`DevicePoolReader.get` and :meth:`ArenaReader.get`; with code ``peer-access``
            for what was put into the pool before this rank attached, which cannot reach it.

        Notes
        -----
        **Copies**: every byte once, from device to device or from the host.
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
        handle = handle if isinstance(handle, Handle) else Handle.from_bytes(bytes(handle))
        return self._side(handle).get_async(handle, limits=limits, expand=expand)

    def release(self, handle: Handle | bytes) -> None:
        """Say that this rank does not want a message that it never got.

        Raises
        ------
        StaleHandleError, TransportError
            As :meth:`ArenaReader.release`.
        """
        handle = handle if isinstance(handle, Handle) else Handle.from_bytes(bytes(handle))
        self._side(handle).release(handle)

    def close(self) -> None:
        """Wait for the copies under way, then detach."""
        for side in (self._pool, self._host):
            if side is not None:
                side.close()

    def _reach(self, ipc: bytes) -> DevicePoolReader | None:
        from mmformat.cuda.device_pool import DevicePoolReader

        pool = DevicePoolReader(
            self._pool_name, rank=self._number, device=self._device, registry=self._registry
        )
        try:
            pool.reach(ipc)
        except TransportError as error:
            pool.close()
            if error.code != "peer-access":
                raise
            self.reason = str(error)
            _LOG.warning("this rank gets its messages through the host: %s", error)
            return None
        return pool

    def _side(self, handle: Handle) -> ArenaReader | DevicePoolReader:
        if handle.name == self._host_name:
            return self._host or self._attach_host()
        if self._pool is None:
            raise TransportError(
                "expected a message through the host, got one in a pool out of this rank's reach",
                hint="let every rank attach before the first put (DeviceArena.wait_attached)",
                code="peer-access",
            )
        return self._pool

    def _attach_host(self) -> ArenaReader:
        self._host = Arena.attach(
            self._host_name, rank=self._number, device=self._device, registry=self._registry
        )
        return self._host

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
