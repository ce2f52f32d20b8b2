"""Pinned memory that a message is decompressed into, so that the device takes it from there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mmformat.cuda.copy_stream import Lane

if TYPE_CHECKING:
    import torch

__all__ = ["Unpacked"]


class Unpacked:
    """Allocate host memory for decompressed tensors, and find it again.

    Parameters
    ----------
    lane : Lane
        Of the device that the tensors go to; for a CUDA device the memory is pinned.

    Notes
    -----
    **Copies**: none; without it the bytes would be copied into staging buffers first. **Lifetime**:
    torch's cache of pinned memory, which uses it again only when the copies out of it are done.
    """

    __slots__ = ("_lane", "_rooms")

    def __init__(self, lane: Lane) -> None:
        self._lane = lane
        self._rooms: list[torch.Tensor] = []

    def allocate(self, nbytes: int) -> memoryview:
        """Return so many bytes, at a multiple of 64."""
        import torch

        is_pinned = self._lane.device.type == "cuda"
        room = torch.empty(nbytes, dtype=torch.uint8, pin_memory=is_pinned)
        self._rooms.append(room)
        array: Any = room.numpy()
        return memoryview(array)

    def find(self, host: torch.Tensor) -> torch.Tensor | None:
        """Return the bytes of a tensor as torch's own pinned tensor, or None for one elsewhere.

        A copy out of that one is known to torch's cache; a copy out of ``host`` would not be.
        """
        address, nbytes = host.data_ptr(), host.nbytes
        for room in self._rooms:
            at = address - room.data_ptr()
            if nbytes and at >= 0 and at + nbytes <= room.numel():
                return room[at : at + nbytes]
        return None
