"""Our own arms without shared memory: plain frames, LZ4, and dictionary encoding."""

from __future__ import annotations

from typing import Any

from mmformat.bench.arms.arm import Arm, Frames
from mmformat.codec import decode, encode
from mmformat.model import Compression, MultimodalInputs

__all__ = ["CodesArm", "DictionaryArm", "Lz4Arm", "PlainArm"]


class PlainArm(Arm):
    """Encode to frames that are the tensors' own memory, and decode to views."""

    name = "mmformat"
    title = "mmformat, frames"
    note = "encode copies no tensor byte; decode makes views"

    def encode(self, inputs: MultimodalInputs) -> Frames:
        """Return the message's frames."""
        return encode(inputs).frames

    def decode(self, frames: Frames) -> Any:
        """Return views of the frames."""
        return decode(list(frames))


class Lz4Arm(PlainArm):
    """Compress every tensor, whatever its size."""

    name = "mmformat-lz4"
    title = "mmformat, LZ4"
    note = "for files and slow links; off by default"

    def encode(self, inputs: MultimodalInputs) -> Frames:
        """Return the compressed message's frames."""
        return encode(inputs, Compression(codec="lz4", threshold_nbytes=4096)).frames


class DictionaryArm(PlainArm):
    """Carry uint8 codes and a table, and expand them on the CPU."""

    name = "mmformat-dictionary"
    title = "mmformat, dictionary, expanded"
    note = "decode writes every float; on a GPU the expansion belongs there"
    wants_dictionary = True


class CodesArm(PlainArm):
    """Carry uint8 codes and a table, and hand them over as they are."""

    name = "mmformat-codes"
    title = "mmformat, dictionary, as codes"
    note = "what a rank sends to its GPU, to be expanded there"
    wants_dictionary = True

    def decode(self, frames: Frames) -> Any:
        """Return views of codes and tables."""
        return decode(list(frames), expand=False)
