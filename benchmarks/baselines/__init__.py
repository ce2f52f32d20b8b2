"""The methods that only the benchmarks compare: rivals, and controls."""

from benchmarks.baselines.catalogue import METHODS, make_method, method_class, why_missing
from mmformat.bench.methods import Frames, Method

__all__ = ["METHODS", "Frames", "Method", "make_method", "method_class", "why_missing"]
