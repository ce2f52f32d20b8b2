"""Ways from the producer's memory to a tensor on a rank's device, each a class of its own."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any, ClassVar, Final

import torch

from benchmarks.baselines.segment_per_tensor import SegmentPerTensorMethod
from mmformat.arena import Arena, ArenaReader, decode
from mmformat.bench.payloads import tensors_of
from mmformat.codec import encode
from mmformat.model import DictionaryTensor, MultimodalInputs
from mmformat.shm import Handle

__all__ = ["WAYS", "Way", "features_of", "make_way"]


def features_of(inputs: Any) -> list[torch.Tensor]:
    """Return the features of inputs: what is compared, and nearly all of the bytes."""
    return [item.feature for item in inputs.items]


class Way:
    """Bring a request's features to a device.

    The producer's part, :meth:`offer`, is outside the clock for every way alike; the clock runs
    from :meth:`fetch` until the device is idle.

    Attributes
    ----------
    name, title : str
        For the file, and for a table.
    encoding : {"plain", "float32", "bfloat16"}
        What it is offered: plain tensors, or codes with a table of this dtype.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    encoding: ClassVar[str] = "plain"

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def open(self, nbytes: int) -> None:
        """Prepare for requests of so many bytes."""

    def offer(self, inputs: MultimodalInputs) -> None:
        """Do what the producer does."""
        raise RuntimeError(f"{type(self).__name__} offers nothing")

    def fetch(self) -> list[torch.Tensor]:
        """Do what the rank does, and return the features on the device."""
        raise RuntimeError(f"{type(self).__name__} fetches nothing")

    def settle(self) -> None:
        """Give back what the last request used."""

    def close(self) -> None:
        """Give everything back."""


class PinnedWay(Way):
    """Copy from pinned memory that holds the bytes already: the limit."""

    name = "pinned"
    title = "plain pinned cudaMemcpyAsync (control)"

    def open(self, nbytes: int) -> None:
        """Allocate both sides once."""
        self._hosts: list[torch.Tensor] = []
        self._devices: list[torch.Tensor] = []

    def offer(self, inputs: MultimodalInputs) -> None:
        """Fill the pinned buffers."""
        features = features_of(inputs)
        if not self._hosts:
            self._hosts = [torch.empty_like(each, pin_memory=True) for each in features]
            self._devices = [torch.empty_like(each, device=self.device) for each in features]
        for host, feature in zip(self._hosts, features, strict=True):
            host.copy_(feature)

    def fetch(self) -> list[torch.Tensor]:
        """Copy, and nothing else."""
        for host, device in zip(self._hosts, self._devices, strict=True):
            device.copy_(host, non_blocking=True)
        return self._devices


class ArenaWay(Way):
    """Get from an arena."""

    pin: ClassVar[bool] = True

    def open(self, nbytes: int) -> None:
        """Create the arena and attach the rank."""
        self._arena = Arena.create(nbytes=nbytes + 2**24, ranks=1)
        self._rank: ArenaReader = Arena.attach(
            self._arena.name, rank=0, device=self.device, pin=self.pin
        )
        self._handle: Handle | None = None
        if self._rank.placement.registered is not self.pin:
            raise RuntimeError(f"expected pin={self.pin}, got {self._rank.placement}")

    def offer(self, inputs: MultimodalInputs) -> None:
        """Put."""
        self._handle = self._arena.put(inputs, timeout_s=10)

    def fetch(self) -> list[torch.Tensor]:
        """Get."""
        return features_of(self._rank.get(self._taken()))

    def settle(self) -> None:
        """Wait for the slot."""
        if not self._arena.wait_released(timeout_s=10):
            raise RuntimeError("expected the rank to release its slot")

    def close(self) -> None:
        """Detach and remove."""
        self._rank.close()
        self._arena.close()

    def _taken(self) -> Handle:
        handle, self._handle = self._handle, None
        if handle is None:
            raise RuntimeError("expected an offer before a fetch")
        return handle


class PlainArenaWay(ArenaWay):
    """Get plain tensors from the pinned arena."""

    name = "arena"
    title = "mmformat, arena pinned"


class CodesArenaWay(ArenaWay):
    """Get codes, expanded to float32 on the device."""

    name = "arena-dictionary"
    title = "mmformat, arena pinned, dictionary to float32"
    encoding = "float32"


class HalfCodesArenaWay(ArenaWay):
    """Get codes, expanded to bfloat16 on the device."""

    name = "arena-dictionary-bf16"
    title = "mmformat, arena pinned, dictionary to bfloat16"
    encoding = "bfloat16"


class HalfArenaWay(ArenaWay):
    """Get plain bfloat16 tensors: what the dictionary is to beat there."""

    name = "arena-bf16"
    title = "mmformat, arena pinned, plain bfloat16"
    encoding = "plain-bfloat16"


class StagedArenaWay(ArenaWay):
    """Get through pinned staging buffers, as when CUDA refuses to pin the arena."""

    name = "arena-staged"
    title = "mmformat, arena not pinned, staged"
    pin = False


class PageableArenaWay(ArenaWay):
    """Get views on the CPU, and copy them as pageable memory."""

    name = "arena-pageable"
    title = "arena, pageable copy"

    def fetch(self) -> list[torch.Tensor]:
        """Get on the CPU, then copy."""
        found = self._rank.get(self._taken(), device="cpu")
        return [each.to(self.device) for each in features_of(found)]


class PinFirstWay(ArenaWay):
    """Get views on the CPU, and pin a copy of them with torch's own pin_memory."""

    name = "arena-pin-memory"
    title = "arena, torch pin_memory() first"

    def fetch(self) -> list[torch.Tensor]:
        """Get on the CPU, pin, then copy."""
        found = self._rank.get(self._taken(), device="cpu")
        return [each.pin_memory().to(self.device, non_blocking=True) for each in features_of(found)]


class SegmentWay(Way):
    """Map a segment for each tensor copy-on-write, and copy it as pageable memory."""

    name = "segment-per-tensor"
    title = "segment per tensor, pageable (as SGLang)"

    def open(self, nbytes: int) -> None:
        """Prepare nothing: the segments come with the request."""
        self._method = SegmentPerTensorMethod()

    def offer(self, inputs: MultimodalInputs) -> None:
        """Create and fill the segments."""
        self._frames = self._method.encode(inputs)

    def fetch(self) -> list[torch.Tensor]:
        """Map, then copy."""
        return [each.to(self.device) for each in features_of(self._method.decode(self._frames))]

    def settle(self) -> None:
        """Unlink the segments."""
        self._method.reclaim()

    def close(self) -> None:
        """Unlink what a failed round left."""
        self._method.close()


class PickleWay(Way):
    """Load a pickle that has arrived, and copy its tensors as pageable memory."""

    name = "pickle"
    title = "pickle 5 in band, pageable"

    def offer(self, inputs: MultimodalInputs) -> None:
        """Dump."""
        self._bytes = pickle.dumps([each.numpy() for each in _words(inputs)], protocol=5)
        self._dtypes = [each.dtype for each in features_of(inputs)]

    def fetch(self) -> list[torch.Tensor]:
        """Load, then copy."""
        arrays = pickle.loads(self._bytes)
        return [
            torch.from_numpy(array).to(self.device).view(dtype)
            for array, dtype in zip(arrays, self._dtypes, strict=True)
        ]


class MessageWay(Way):
    """Decode a message that has arrived, through pinned staging buffers."""

    name = "message"
    title = "mmformat, message in memory, staged"

    def offer(self, inputs: MultimodalInputs) -> None:
        """Encode."""
        self._bytes = bytes(encode(inputs))

    def fetch(self) -> list[torch.Tensor]:
        """Decode."""
        return features_of(decode(self._bytes, self.device))


def _words(inputs: MultimodalInputs) -> list[torch.Tensor]:
    # numpy has no bfloat16.
    return [
        each.view(torch.int16) if each.dtype == torch.bfloat16 else each
        for each in tensors_of([item.feature for item in inputs.items])
        if not isinstance(each, DictionaryTensor)
    ]


_CLASSES: Final[tuple[Callable[[torch.device], Way], ...]] = (
    PinnedWay,
    PlainArenaWay,
    CodesArenaWay,
    HalfArenaWay,
    HalfCodesArenaWay,
    StagedArenaWay,
    MessageWay,
    PageableArenaWay,
    PinFirstWay,
    SegmentWay,
    PickleWay,
)

WAYS: Final[dict[str, Any]] = {made.name: made for made in _CLASSES}  # type: ignore[attr-defined]


def make_way(name: str, device: torch.device) -> Way:
    """Return a way by its name, not yet open."""
    made: Way = WAYS[name](device)
    return made
