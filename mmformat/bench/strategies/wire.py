"""How a request's media are packed for the ranks, by each carrier, and unpacked there."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from typing import Any

import mmformat as mm
from mmformat.bench.arms.arm import inputs_of, plain_of
from mmformat.bench.arms.segment_per_tensor import SegmentPerTensorArm
from mmformat.bench.strategies.traffic import feature_nbytes
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
    """Make tensors of what arrived, in a rank."""

    def __init__(self, way: Way, reader: mm.ArenaReader | None) -> None:
        self._way = way
        self._reader = reader

    def unpack(self, body: bytes | memoryview) -> mm.MultimodalInputs:
        """Return the materialized inputs."""
        if self._reader is not None:
            return self._reader.get(bytes(body), library="torch", expand=False)
        if self._way.carrier == "segment":
            inputs: mm.MultimodalInputs = SegmentPerTensorArm().decode([body])
            return inputs
        return inputs_of(pickle.loads(body))


def as_torch(inputs: mm.MultimodalInputs) -> mm.MultimodalInputs:
    """Return the inputs with torch features over the same bytes, as engines carry them."""
    import torch

    items = [
        mm.MultimodalDataItem(
            modality=item.modality,
            feature=torch.from_numpy(item.feature),
            offsets=item.offsets,
            model_specific_data=item.model_specific_data,
            hash=item.hash,
            pad_value=item.pad_value,
        )
        for item in inputs.items
    ]
    return mm.MultimodalInputs(items=items, request_data=inputs.request_data)


def tensors_of(inputs: mm.MultimodalInputs) -> Sequence[Any]:
    """Return what a rank would hand to its device: features, or their codes and tables."""
    found: list[Any] = []
    for item in inputs.items:
        feature = item.feature
        if isinstance(feature, mm.DictionaryTensor):
            found += (feature.codes, feature.table)
        else:
            found.append(feature)
    return found
