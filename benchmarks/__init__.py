"""Every measurement that the documentation shows, run from a checkout: ``python -m benchmarks``."""
