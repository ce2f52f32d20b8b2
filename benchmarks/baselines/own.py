"""This library's own methods beyond the two that `mmformat bench` compares."""

from __future__ import annotations

from typing import Any

from mmformat.bench.methods import ArenaMethod, Frames, PlainMethod
from mmformat.codec import decode, encode
from mmformat.model import Compression, MultimodalInputs

__all__ = [
    "ArenaAgainMethod",
    "ArenaCodesMethod",
    "ArenaDictionaryMethod",
    "CodesMethod",
    "DictionaryMethod",
    "Lz4Method",
]


class Lz4Method(PlainMethod):
    """Compress every tensor, whatever its size."""

    name = "mmformat-lz4"
    title = "mmformat, LZ4"
    note = "for files and slow links; off by default"

    def encode(self, inputs: MultimodalInputs) -> Frames:
        """Return the compressed message's frames."""
        return encode(inputs, Compression(codec="lz4", threshold_nbytes=4096)).frames


class DictionaryMethod(PlainMethod):
    """Carry uint8 codes and a table, and expand them on the CPU."""

    name = "mmformat-dictionary"
    title = "mmformat, dictionary, expanded"
    note = "decode writes every float; on a GPU the expansion belongs there"
    wants_dictionary = True


class CodesMethod(PlainMethod):
    """Carry uint8 codes and a table, and hand them over as they are."""

    name = "mmformat-codes"
    title = "mmformat, dictionary, as codes"
    note = "what a rank sends to its GPU, to be expanded there"
    wants_dictionary = True

    def decode(self, frames: Frames) -> Any:
        """Return views of codes and tables."""
        return decode(list(frames), expand=False)


class ArenaAgainMethod(ArenaMethod):
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


class ArenaDictionaryMethod(ArenaMethod):
    """Put codes and tables; each rank expands them on the CPU."""

    name = "mmformat-arena-dictionary"
    title = "mmformat, arena, dictionary, expanded"
    note = "every rank writes every float; on a GPU the expansion belongs there"
    wants_dictionary = True


class ArenaCodesMethod(ArenaMethod):
    """Put codes and tables; each rank is handed them as they are."""

    name = "mmformat-arena-codes"
    title = "mmformat, arena, dictionary, as codes"
    note = "what a rank sends to its GPU, to be expanded there"
    wants_dictionary = True
    expands = False
