"""Nine ways from a tokenizer to the ranks, each as a server would run it, under one clock."""

from benchmarks.strategies.run import run_strategies
from benchmarks.strategies.ways import WAYS, Way

__all__ = ["WAYS", "Way", "run_strategies"]
