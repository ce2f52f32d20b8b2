"""Inputs whose tensors are on a GPU already, handed to every rank's GPU without the host."""

from __future__ import annotations

import mmap
import struct
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import replace
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
import torch

from mmformat._arrow import buffer_of
from mmformat._cudart import library, words_of
from mmformat.codec import encode
from mmformat.codec.columns import INLINE_NBYTES
from mmformat.codec.spans import Spans
from mmformat.codec.tensors import numpy_view, torch_view
from mmformat.errors import DecodeError, TransportError
from mmformat.model.dictionary import DictionaryTensor
from mmformat.model.item import MultimodalInputs
from mmformat.model.limits import Limits
from mmformat.model.message import EncodedMessage
from mmformat.model.tensors import is_tensor, tensor_buffer, tensor_spec
from mmformat.placement.device import resolve_device
from mmformat.placement.lane import lane_of
from mmformat.placement.releases import Releases
from mmformat.share.decoding import decode_with
from mmformat.share.pending import PendingInputs
from mmformat.transport.cuda_ipc import ANY_TO_ANY, CudaPool, CudaPoolReader
from mmformat.transport.shm import ArenaStats, Handle

__all__ = ["DevicePool", "DevicePoolReader"]

_PIECE: Final = struct.Struct("<QQ")
_DEFAULT_LIMITS: Final = Limits()


class DevicePool:
    """Put inputs into memory of the producer's GPU, from which N ranks copy to their own.

    Parameters
    ----------
    nbytes : int
        Of the pool; each message takes whole granules of 256 KiB.
    readers : int
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

    def __init__(self, *, nbytes: int, readers: int, device: torch.device | str = "cuda") -> None:
        self._device = resolve_device(device)
        self._pool = CudaPool(nbytes=nbytes, readers=readers, device=self._device.index)

    @property
    def name(self) -> str:
        """What :class:`DevicePoolReader` takes."""
        return self._pool.name

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
        plan = _Plan()
        message = encode(plan.without_bytes(inputs))
        head, writes = plan.split(message)
        slot = self._pool.reserve(message.nbytes, head, timeout_s=timeout_s)
        try:
            stream = torch.cuda.current_stream(self._device)
            with torch.cuda.device(self._device):
                for at, address, nbytes in writes:
                    words = words_of(
                        library().cudaMemcpyAsync(
                            slot.address + at, address, nbytes, ANY_TO_ANY, stream.cuda_stream
                        )
                    )
                    if words is not None:
                        raise TransportError(
                            f"expected to copy into the pool, got {words}", code="peer-copy"
                        )
            stream.synchronize()
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
    reader : int
        This rank's number; each process has its own, and none is the producer's process.
    device : str or torch.device
        This rank's device. The pool is opened from here, so the rank has no context elsewhere.

    Raises
    ------
    PlacementError, TransportError
        When the device or the pool cannot be had.
    """

    def __init__(self, name: str, *, reader: int, device: torch.device | str) -> None:
        self._device = resolve_device(device)
        self._pool = CudaPoolReader(name, reader=reader, device=self._device.index)
        self._lane = lane_of(self._device)
        self._releases = Releases()

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
        bounds = limits or _DEFAULT_LIMITS
        extent, hold = self._pool.open(handle)
        ready = None
        try:
            bounds.check("message_nbytes", extent.nbytes)
            with self._lane.side():
                buffer = torch.empty(extent.nbytes, dtype=torch.uint8, device=self._device)
                stream = torch.cuda.current_stream(self._device).cuda_stream
                self._pool.copy(extent, buffer.data_ptr(), stream=stream)
                try:
                    inputs, tensors = decode_with(
                        _joined(extent.head, extent.nbytes),
                        buffer,
                        lane=self._lane,
                        limits=bounds,
                        expand=expand,
                    )
                finally:
                    ready = self._lane.mark()
        finally:
            self._releases.add(ready, hold.release)
        return PendingInputs(inputs, lane=self._lane, event=ready, tensors=tensors)

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


class _Plan:
    """Put zeros that take no memory where tensors are, and remember which is which."""

    def __init__(self) -> None:
        self._tensors: list[Any] = []
        self._stand_ins: list[tuple[int, int]] = []
        self._held: list[object] = []

    def without_bytes(self, inputs: MultimodalInputs) -> MultimodalInputs:
        """Return inputs whose tensors are stand-ins, as large as the real ones."""
        items = [
            replace(
                item,
                feature=_walk(item.feature, self._stand_in),
                precomputed_embeddings=_walk(item.precomputed_embeddings, self._stand_in),
                model_specific_data=_walk(item.model_specific_data, self._stand_in),
            )
            for item in inputs.items
        ]
        return MultimodalInputs(
            items=items, request_data=_walk(inputs.request_data, self._stand_in)
        )

    def split(self, message: EncodedMessage) -> tuple[bytes, list[tuple[int, int, int]]]:
        """Return the bytes of the host, and where in the message which device bytes belong."""
        order = sorted(range(len(self._stand_ins)), key=lambda each: self._stand_ins[each][0])
        starts = [self._stand_ins[each][0] for each in order]
        pieces: list[bytes] = []
        writes: list[tuple[int, int, int]] = []
        at = 0
        for frame in message.frames:
            buffer = buffer_of(frame)
            index = bisect_right(starts, buffer.address) - 1
            start, nbytes = self._stand_ins[order[index]] if index >= 0 else (0, 0)
            if buffer.size and start <= buffer.address < start + nbytes:
                source = self._tensors[order[index]]
                writes.append((at, source + buffer.address - start, buffer.size))
            elif buffer.size:
                pieces += [_PIECE.pack(at, buffer.size), bytes(frame)]
            at += buffer.size
        return b"".join(pieces), writes

    def _stand_in(self, tensor: Any) -> Any:
        spec = tensor_spec(tensor)
        if spec.nbytes <= INLINE_NBYTES:
            return tensor.cpu() if isinstance(tensor, torch.Tensor) else tensor
        if isinstance(tensor, torch.Tensor) and tensor.is_cuda:
            dense = tensor.detach().contiguous()
            address = dense.data_ptr()
            self._held.append(dense)
        else:
            held = tensor_buffer(tensor)
            address = held.address
            self._held.append(held)
        # Untouched anonymous memory costs nothing; a reader finds the zeros it expects.
        area = mmap.mmap(-1, spec.nbytes)
        self._tensors.append(address)
        self._stand_ins.append((buffer_of(area).address, spec.nbytes))
        view = numpy_view if isinstance(tensor, np.ndarray) else torch_view
        return view(memoryview(area), spec.dtype, spec.shape)


def _walk(value: Any, change: Callable[[Any], Any]) -> Any:
    if isinstance(value, DictionaryTensor):
        return DictionaryTensor(
            change(value.codes),
            change(value.table),
            axis=value.axis,
            repeat_axis=value.repeat_axis,
            repeat=value.repeat,
            shape=value.shape,
        )
    if is_tensor(value):
        return change(value)
    if type(value) in (list, tuple):
        return type(value)(_walk(part, change) for part in value)
    if type(value) is dict:
        return {key: _walk(part, change) for key, part in value.items()}
    return value


def _joined(head: bytes, nbytes: int) -> Spans:
    """Return the message as it would lie on the host, with zeros where the device has the bytes.

    Raises
    ------
    DecodeError
        When the pieces contradict each other.
    """
    frames: list[memoryview] = []
    zeros = memoryview(mmap.mmap(-1, max(nbytes, 1))).toreadonly()
    end = at = 0
    while at < len(head):
        try:
            start, size = _PIECE.unpack_from(head, at)
        except struct.error as error:
            raise DecodeError("expected whole pieces of a message", code="pieces") from error
        at += _PIECE.size
        if start < end or start + size > nbytes or at + size > len(head):
            raise DecodeError("expected pieces that lie behind each other", code="pieces")
        frames += [zeros[end:start], memoryview(head)[at : at + size]]
        end, at = start + size, at + size
    frames.append(zeros[end:nbytes])
    return Spans(frames)
