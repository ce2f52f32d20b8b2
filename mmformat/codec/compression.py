"""Which tensors are worth compressing."""

from __future__ import annotations

from mmformat._arrow import lz4_codec
from mmformat.codec.rows import Bytes, TensorEntry
from mmformat.model.compression import Compression

__all__ = ["worth_compressing"]

SAMPLES = 8
SAMPLE_NBYTES = 64 * 2**10
WORTH_RATIO = 0.9
"""A sample that keeps more than this share of its bytes is sent as it is."""


def worth_compressing(entry: TensorEntry, options: Compression) -> bool:
    """Say whether a tensor travels in the compressed batch.

    Notes
    -----
    **Copies**: none. **Cost**: with "auto", 512 KiB of a tensor over the threshold are compressed.
    """
    if entry.stored_nbytes <= options.threshold_nbytes or not entry.data:
        return False
    return options.codec == "lz4" or _shrinks(entry.data[-1])


def _shrinks(chunk: Bytes) -> bool:
    codec = lz4_codec()
    view = memoryview(chunk)
    step = max(SAMPLE_NBYTES, len(view) // SAMPLES)
    sampled = packed = 0
    for start in range(0, len(view), step):
        sample = view[start : start + SAMPLE_NBYTES]
        sampled += len(sample)
        packed += codec.compress(sample).size
    return packed <= WORTH_RATIO * sampled
