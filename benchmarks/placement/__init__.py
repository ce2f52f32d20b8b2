"""The way to the GPU: every way beside a plain pinned copy, on one device and on several."""

from benchmarks.placement.expansion import run_expansion
from benchmarks.placement.one_device import run_one_device
from benchmarks.placement.ranks import run_ranks

__all__ = ["run_expansion", "run_one_device", "run_ranks"]
