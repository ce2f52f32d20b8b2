"""A pool on the producer's GPU, of which every rank copies what it is handed; no tensor is pickled.

The arena does the bookkeeping: each page of a small arena stands for a granule of the pool, so its
free space, generations, release words, locks and reaping are those of the memory on the device.
"""

from __future__ import annotations

import ctypes
import struct
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from mmformat.cuda.cudart import (
    ANY_TO_ANY,
    IPC_HANDLE_NBYTES,
    IpcMemoryHandle,
    library,
    words_of,
)
from mmformat.errors import TransportError
from mmformat.shm import ArenaStats, Handle, Hold, ShmArena, ShmReader
from mmformat.shm.layout import PAGE

__all__ = ["CudaPool", "CudaPoolReader", "CudaSlot", "Extent"]

GRANULE_NBYTES: Final = 2**18
_MAGIC: Final = b"MMFCUDA1"
_HEAD: Final = struct.Struct(f"<8s{IPC_HANDLE_NBYTES}sQQQQ")
_LAZY_PEER_ACCESS: Final = 1
_WHOLE_NBYTES: Final = 2**21
"""A smaller allocation shares its two megabytes, and so its handle, with strangers."""


@dataclass(frozen=True, slots=True)
class Extent:
    """Say where content lies on the producer's device, and what comes with it from the host.

    Parameters
    ----------
    address : int
        In this process, on its own device or a peer's.
    nbytes : int
        How many bytes.
    head : bytes
        What the producer wrote beside them.
    """

    address: int
    nbytes: int
    head: bytes


class CudaSlot:
    """Hold a range of the pool that is being filled.

    Made by :meth:`CudaPool.reserve`.
    """

    def __init__(self, pool: CudaPool, nbytes: int, head: bytes, *, timeout_s: float) -> None:
        pages = max(-(-nbytes // GRANULE_NBYTES), -(-(len(head) + _HEAD.size) // PAGE), 1)
        self._slot = pool._arena.reserve(pages * PAGE, timeout_s=timeout_s)
        offset = (self._slot.offset - pool._first) // PAGE * GRANULE_NBYTES
        self.address = pool._address + offset
        fixed = _HEAD.pack(_MAGIC, pool.ipc, pool.nbytes, offset, nbytes, len(head))
        view = self._slot.view
        view[: len(fixed) + len(head)] = fixed + head

    def seal(self) -> Handle:
        """Grant the range to every reader; the device must be done with writing it.

        Raises
        ------
        TransportError
            As :meth:`Slot.seal`.
        """
        return self._slot.seal()

    def abandon(self) -> None:
        """Give the range back; after the seal it does nothing."""
        self._slot.abandon()


class CudaPool:
    """Own device memory that other processes copy from.

    Parameters
    ----------
    nbytes : int
        Of the pool; rounded up to granules of 256 KiB.
    ranks : int
        How many ranks read every slot, 1 to 64.
    device : int
        The CUDA device.
    slots : int
        How many handles may be unreleased at once.

    Raises
    ------
    TransportError
        With code ``device-memory`` when there is not as much, ``cuda-ipc`` when nobody else can
        open it.

    Notes
    -----
    **Lifetime**: :meth:`close` gives the memory back; ranks must be done by then.
    """

    def __init__(self, *, nbytes: int, ranks: int, device: int, slots: int = 1024) -> None:
        import torch

        whole = max(-(-nbytes // GRANULE_NBYTES) * GRANULE_NBYTES, _WHOLE_NBYTES)
        self.nbytes = whole
        self.device = device
        self._address = 0
        pointer, ipc = ctypes.c_void_p(), IpcMemoryHandle()
        with torch.cuda.device(device):
            words = words_of(library().cudaMalloc(ctypes.byref(pointer), whole))
            if words is not None or pointer.value is None:
                raise TransportError(
                    f"expected {whole:,} bytes on cuda:{device}, got {words}", code="device-memory"
                )
            self._address = pointer.value
            words = words_of(library().cudaIpcGetMemHandle(ctypes.byref(ipc), pointer))
        if words is not None:
            self._free()
            raise TransportError(
                f"expected memory that other processes can open, got {words}",
                hint="use an Arena instead: the tensors go through host memory",
                code="cuda-ipc",
            )
        self.ipc = bytes(ipc)
        try:
            self._arena = ShmArena.create(
                nbytes=whole // GRANULE_NBYTES * PAGE, ranks=ranks, slots=slots
            )
        except BaseException:
            self._free()
            raise
        self._first = self._arena._segment.layout.data_offset

    @property
    def name(self) -> str:
        """What ranks attach to."""
        return self._arena.name

    def reserve(self, nbytes: int, head: bytes, *, timeout_s: float = 0.0) -> CudaSlot:
        """Return a range of the device to write, waiting for the readers as long as allowed.

        Parameters
        ----------
        nbytes : int
            On the device.
        head : bytes
            What the readers get beside it.
        timeout_s : float
            How long to wait for room.

        Raises
        ------
        ArenaFullError
            When there is no room in time, or never will be.
        """
        return CudaSlot(self, nbytes, head, timeout_s=timeout_s)

    def reap(self) -> int:
        """Take back what dead ranks held, and return how many slots that were."""
        return self._arena.reap()

    def stats(self) -> ArenaStats:
        """Return what the bookkeeping arena holds: a page there is a granule here."""
        return self._arena.stats()

    def close(self) -> None:
        """Remove the name and free the memory; a second call does nothing."""
        self._arena.close()
        self._free()

    def _free(self) -> None:
        import torch

        address, self._address = self._address, 0
        if address:
            with torch.cuda.device(self.device):
                words_of(library().cudaFree(address))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class CudaPoolReader:
    """Open a pool as one rank, from the rank's own device.

    Parameters
    ----------
    name_or_handle : str or Handle
        What the producer announced.
    rank : int
        The rank.
    device : int
        Its CUDA device; nothing is ever placed on the producer's.

    Raises
    ------
    TransportError
        As :meth:`ShmReader.attach`.
    """

    def __init__(self, name_or_handle: str | Handle, *, rank: int, device: int) -> None:
        self.device = device
        self._reader = ShmReader.attach(name_or_handle, rank=rank)
        self._mapping, self._first = self._reader.map_data()
        self._ipc = b""
        self._address = 0

    def open(self, handle: Handle) -> tuple[Extent, Hold]:
        """Return where a handle's content lies, and what keeps it there until it is released.

        Raises
        ------
        StaleHandleError
            When the content is gone, or was released here.
        TransportError
            With code ``producer-gone`` when the memory went with its process, ``pool`` when the
            slot is damaged, ``peer-access`` when this device cannot reach the producer's.
        """
        if not self._reader.producer_alive:
            raise TransportError(
                "expected a living producer, got memory that went with it", code="producer-gone"
            )
        hold = self._reader.hold(handle)
        try:
            at = handle.offset - self._first
            # Copied, then checked: what is checked is what is used.
            fixed = self._mapping[at : at + _HEAD.size]
            magic, ipc, pool_nbytes, offset, nbytes, head_nbytes = _HEAD.unpack(fixed)
            if (
                magic != _MAGIC
                or offset != at // PAGE * GRANULE_NBYTES
                or offset + nbytes > pool_nbytes
                or nbytes > handle.nbytes // PAGE * GRANULE_NBYTES
                or _HEAD.size + head_nbytes > handle.nbytes
            ):
                raise TransportError("expected a slot of a device pool", code="pool")
            head = self._mapping[at + _HEAD.size : at + _HEAD.size + head_nbytes]
            return Extent(self.reach(ipc) + offset, nbytes, head), hold
        except BaseException:
            hold.release()
            raise

    @property
    def producer_alive(self) -> bool:
        """Whether the producer still lives."""
        return self._reader.producer_alive

    def copy(self, extent: Extent, target: int, *, stream: int) -> None:
        """Start copying an extent to an address of this rank's device.

        Parameters
        ----------
        extent : Extent
            Of :meth:`open`.
        target : int
            An address with room for it.
        stream : int
            A ``cudaStream_t``.

        Raises
        ------
        TransportError
            With code ``peer-copy`` when it cannot be started.
        """
        words = words_of(
            library().cudaMemcpyAsync(target, extent.address, extent.nbytes, ANY_TO_ANY, stream)
        )
        if words is not None:
            raise TransportError(f"expected to copy from the pool, got {words}", code="peer-copy")

    def release(self, handle: Handle) -> None:
        """Say that this rank needs the content no more, whether it ever opened it or not.

        Raises
        ------
        TransportError, StaleHandleError
            As :meth:`ShmReader.release`.
        """
        self._reader.release(handle)

    def close(self) -> None:
        """Unmap and detach; no copy may be under way."""
        import torch

        address, self._address = self._address, 0
        if address:
            with torch.cuda.device(self.device):
                words_of(library().cudaIpcCloseMemHandle(address))
        self._mapping.close()
        self._reader.close()

    def reach(self, ipc: bytes) -> int:
        """Open the producer's memory from this rank's device, once, and return its address.

        Raises
        ------
        TransportError
            With code ``peer-access`` when this device cannot reach the producer's, ``pool`` when
            another pool was opened here before.
        """
        import torch

        if ipc == self._ipc:
            return self._address
        if self._ipc:
            raise TransportError("expected one pool for the life of its arena", code="pool")
        pointer = ctypes.c_void_p()
        with torch.cuda.device(self.device):
            words = words_of(
                library().cudaIpcOpenMemHandle(
                    ctypes.byref(pointer), IpcMemoryHandle.from_buffer_copy(ipc), _LAZY_PEER_ACCESS
                )
            )
        if words is not None or pointer.value is None:
            raise TransportError(
                f"expected cuda:{self.device} to reach the producer's device, got {words}",
                hint="use an Arena instead: the tensors go through host memory",
                code="peer-access",
            )
        self._ipc, self._address = ipc, pointer.value
        return self._address
