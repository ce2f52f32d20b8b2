"""Our own arms through shared memory: put once, announce a handle, get in every rank."""

from __future__ import annotations

from typing import Any

from mmformat.arena import Arena, ArenaReader
from mmformat.bench.arms.arm import Arm, Frames
from mmformat.model import MultimodalInputs

__all__ = ["ArenaAgainArm", "ArenaArm", "ArenaCodesArm", "ArenaDictionaryArm"]


class ArenaArm(Arm):
    """Put into a touched arena; the frame is the handle."""

    name = "mmformat-arena"
    title = "mmformat, arena"
    note = "one copy by the producer, views in every rank"
    shares_memory = True
    expands = True

    def __init__(self) -> None:
        self._arena: Arena | None = None
        self._rank: ArenaReader | None = None
        self._number: int | None = None

    def open(self, *, nbytes: int, ranks: int) -> None:
        """Create the arena, with room for two requests."""
        self._arena = Arena.create(nbytes=2 * nbytes + 2**22, ranks=ranks)

    def encode(self, inputs: MultimodalInputs) -> Frames:
        """Put the inputs and return the handle."""
        if self._arena is None:
            raise RuntimeError("expected open() first")
        return [bytes(self._arena.put(inputs))]

    def reclaim(self) -> None:
        """Wait until the slot is free again."""
        if self._arena is not None and not self._arena.wait_released(timeout_s=30):
            raise RuntimeError("expected every rank to release its slot")

    def attach(self, *, rank: int) -> None:
        """Remember the rank's number; the first handle names the arena."""
        self._number = rank

    def decode(self, frames: Frames) -> Any:
        """Get the inputs as views of the slot."""
        handle = bytes(frames[0])
        if self._rank is None:
            self._rank = Arena.attach(handle, rank=self._number or 0)
        return self._rank.get(handle, expand=self.expands)

    def close(self) -> None:
        """Detach, or remove the arena."""
        if self._rank is not None:
            self._rank.close()
        if self._arena is not None:
            self._arena.close()


class ArenaAgainArm(ArenaArm):
    """Put content that the arena has already, as when an image is asked about twice."""

    name = "mmformat-arena-again"
    title = "mmformat, arena, content already there"
    note = "found by the items' identity, which materialization set; nothing is copied"
    wants_same = True

    def encode(self, inputs: MultimodalInputs) -> Frames:
        """Put once under an identity; afterwards the content is found."""
        for number, item in enumerate(inputs.items):
            if item.identity is None:
                item.identity = f"bench-{number}"
                item.freeze()  # the identity of what may still change is not believed
        return super().encode(inputs)

    @property
    def saved_nbytes(self) -> int:
        """Bytes that were found and not copied, so far."""
        return 0 if self._arena is None else self._arena.stats().bytes_saved


class ArenaDictionaryArm(ArenaArm):
    """Put codes and tables; each rank expands them on the CPU."""

    name = "mmformat-arena-dictionary"
    title = "mmformat, arena, dictionary, expanded"
    note = "every rank writes every float; on a GPU the expansion belongs there"
    wants_dictionary = True


class ArenaCodesArm(ArenaArm):
    """Put codes and tables; each rank is handed them as they are."""

    name = "mmformat-arena-codes"
    title = "mmformat, arena, dictionary, as codes"
    note = "what a rank sends to its GPU, to be expanded there"
    wants_dictionary = True
    expands = False
