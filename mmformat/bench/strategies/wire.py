"""How a request's media are packed for the ranks, by each carrier, and unpacked there."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from typing import Any, cast

import torch

import mmformat as mm
from mmformat.bench.arms.arm import inputs_of, plain_of
from mmformat.bench.arms.segment_per_tensor import SegmentPerTensorArm
from mmformat.bench.pages import touch
from mmformat.bench.strategies.traffic import feature_nbytes, lazy, processor_of
from mmformat.bench.strategies.ways import Way

__all__ = ["Packer", "Unpacker"]


class Packer:
    """Make the bytes that travel, in the process that materialized.

    Attributes
    ----------
    written_nbytes : int
        Bytes written to shared memory so far.
    """

    def __init__(self, way: Way, arena: mm.Arena | None) -> None:
        self._way = way
        self._arena = arena
        self._segments: dict[int, SegmentPerTensorArm] = {}
        self.written_nbytes = 0

    def pack(self, number: int, inputs: mm.MultimodalInputs) -> bytes:
        """Return what the ranks are sent for a materialized request."""
        if self._way.carrier == "arena" and self._arena is not None:
            saved = self._arena.stats().bytes_saved
            handle = self._arena.put(inputs, compression=self._way.compression, timeout_s=60)
            if self._arena.stats().bytes_saved == saved:
                self.written_nbytes += handle.nbytes
            return bytes(handle)
        if self._way.carrier == "segment":
            arm = self._segments[number] = SegmentPerTensorArm()
            self.written_nbytes += feature_nbytes(inputs)
            return bytes(arm.encode(as_torch(inputs))[0])
        return pickle.dumps(plain_of(as_torch(inputs)), protocol=5)

    def materialize(self, images: Sequence[str]) -> bytes:
        """Return a handle of images that are processed in the slot itself."""
        if self._arena is None:
            raise RuntimeError("expected a way with an arena")
        inputs, processor = lazy(images), processor_of(dictionary=self._way.dictionary)
        handle, _ = self._arena.materialize(inputs, processor, timeout_s=60)
        self.written_nbytes += handle.nbytes
        return bytes(handle)

    def done(self, number: int) -> None:
        """Take back what a request used, when every rank is ready with it."""
        arm = self._segments.pop(number, None)
        if arm is not None:
            arm.reclaim()

    def close(self) -> None:
        """Take back everything."""
        for number in list(self._segments):
            self.done(number)


class Unpacker:
    """Make tensors of what arrived, in a rank, where the rank wants them.

    On the host, a dictionary tensor stays codes and table: expanding belongs on the device.
    """

    def __init__(self, way: Way, reader: mm.ArenaReader | None, device: torch.device) -> None:
        self._way = way
        self._reader = reader
        self._device = device

    def unpack(self, body: bytes | memoryview) -> mm.MultimodalInputs:
        """Return the materialized inputs."""
        if self._reader is not None and self._device.type == "cpu":
            return self._reader.get(bytes(body), library="torch", expand=False)
        if self._reader is not None:
            return self._reader.get(bytes(body), device=str(self._device))
        if self._way.carrier == "segment":
            inputs: mm.MultimodalInputs = SegmentPerTensorArm().decode([body])
            return self.place(inputs)
        return self.place(inputs_of(pickle.loads(body)))

    def place(self, inputs: mm.MultimodalInputs) -> mm.MultimodalInputs:
        """Copy the features to the device, as an engine does with pageable memory."""
        if self._device.type != "cpu":
            for item in inputs.items:
                item.feature = cast(torch.Tensor, item.feature).to(self._device)
        return inputs

    def wait_until_there(self, inputs: mm.MultimodalInputs) -> None:
        """Wait for the device, or read a byte of every page."""
        if self._device.type == "cpu":
            touch(inputs)
        else:
            torch.cuda.synchronize(self._device)


def as_torch(inputs: mm.MultimodalInputs) -> mm.MultimodalInputs:
    """Return the inputs with torch features over the same bytes, as engines carry them."""
    items = [
        mm.MultimodalDataItem(
            modality=item.modality,
            feature=torch.from_numpy(cast(Any, item.feature)),
            offsets=item.offsets,
            model_specific_data=item.model_specific_data,
            hash=item.hash,
            pad_value=item.pad_value,
        )
        for item in inputs.items
    ]
    return mm.MultimodalInputs(items=items, request_data=inputs.request_data)
