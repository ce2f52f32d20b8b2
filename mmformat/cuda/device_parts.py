"""Inputs whose tensors are on a device: the message without their bytes, and where those go."""

from __future__ import annotations

import mmap
import struct
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
import torch

from mmformat._arrow import buffer_of
from mmformat.codec.chained_buffer import ChainedBuffer
from mmformat.codec.columns import INLINE_NBYTES
from mmformat.codec.tensors import numpy_view, torch_view
from mmformat.cuda.cudart import ANY_TO_ANY, library, words_of
from mmformat.errors import DecodeError, TransportError
from mmformat.model.dictionary import DictionaryTensor
from mmformat.model.item import MultimodalInputs
from mmformat.model.message import EncodedMessage
from mmformat.model.tensors import is_tensor, tensor_buffer, tensor_spec

__all__ = ["Plan", "copy_parts", "joined", "pieces_of"]

_PIECE: Final = struct.Struct("<QQ")


def copy_parts(
    writes: Sequence[tuple[int, int, int]], target: int, *, device: torch.device
) -> None:
    """Copy each (place, address, bytes) to its place behind an address, and wait for all of them.

    Raises
    ------
    TransportError
        With code ``peer-copy`` when CUDA refuses.
    """
    stream = torch.cuda.current_stream(device)
    try:
        with torch.cuda.device(device):
            for at, address, nbytes in writes:
                words = words_of(
                    library().cudaMemcpyAsync(
                        target + at, address, nbytes, ANY_TO_ANY, stream.cuda_stream
                    )
                )
                if words is not None:
                    raise TransportError(
                        f"expected to copy a tensor, got {words}", code="peer-copy"
                    )
    finally:
        # After an error as well: the copies before it still write where another may write next.
        stream.synchronize()


class Plan:
    """Put zeros that take no memory where tensors are, and remember which is which.

    Parameters
    ----------
    shows_first_bytes : bool
        Whether a stand-in begins as its tensor does. The message repeats the first bytes of each
        buffer, and they must be those that its readers find there.
    """

    def __init__(self, *, shows_first_bytes: bool = False) -> None:
        self._shows_first_bytes = shows_first_bytes
        self._tensors: list[Any] = []
        self._stand_ins: list[tuple[int, int]] = []
        self._held: list[object] = []

    def without_bytes(self, inputs: MultimodalInputs) -> MultimodalInputs:
        """Return inputs whose tensors are stand-ins, as large as the real ones."""
        items = [
            replace(
                item,
                feature=walk(item.feature, self._stand_in),
                precomputed_embeddings=walk(item.precomputed_embeddings, self._stand_in),
                model_specific_data=walk(item.model_specific_data, self._stand_in),
                identity=None if item.identity is None else str(item.identity),
            )
            for item in inputs.items
        ]
        return MultimodalInputs(items=items, request_data=walk(inputs.request_data, self._stand_in))

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
        if self._shows_first_bytes:
            area[:4] = _first_bytes(self._held[-1])
        self._tensors.append(address)
        self._stand_ins.append((buffer_of(area).address, spec.nbytes))
        view = numpy_view if isinstance(tensor, np.ndarray) else torch_view
        return view(memoryview(area), spec.dtype, spec.shape)


def _first_bytes(held: Any) -> bytes:
    if not isinstance(held, torch.Tensor):
        return bytes(memoryview(held)[:4])
    first: Any = held.reshape(-1)[:4].cpu().view(torch.uint8)[:4]
    return bytes(first.tolist())


def walk(value: Any, change: Callable[[Any], Any]) -> Any:
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
        return type(value)(walk(part, change) for part in value)
    if type(value) is dict:
        return {key: walk(part, change) for key, part in value.items()}
    return value


def pieces_of(head: bytes, nbytes: int) -> list[tuple[int, memoryview]]:
    """Return the pieces of :meth:`Plan.split`, each with its place in the message.

    Raises
    ------
    DecodeError
        When the pieces contradict each other.
    """
    found: list[tuple[int, memoryview]] = []
    end = at = 0
    while at < len(head):
        try:
            start, size = _PIECE.unpack_from(head, at)
        except struct.error as error:
            raise DecodeError("expected whole pieces of a message", code="pieces") from error
        at += _PIECE.size
        if start < end or start + size > nbytes or at + size > len(head):
            raise DecodeError("expected pieces that lie behind each other", code="pieces")
        found.append((start, memoryview(head)[at : at + size]))
        end, at = start + size, at + size
    return found


def joined(head: bytes, nbytes: int) -> ChainedBuffer:
    """Return the message as it would lie on the host, with zeros where the device has the bytes.

    Raises
    ------
    DecodeError
        When the pieces contradict each other.
    """
    frames: list[memoryview] = []
    zeros = memoryview(mmap.mmap(-1, max(nbytes, 1))).toreadonly()
    end = 0
    for start, piece in pieces_of(head, nbytes):
        frames += [zeros[end:start], piece]
        end = start + len(piece)
    frames.append(zeros[end:nbytes])
    return ChainedBuffer(frames)
