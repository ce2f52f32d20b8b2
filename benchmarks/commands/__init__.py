"""What ``python -m benchmarks`` runs."""

from benchmarks.commands.scenarios import parser

__all__ = ["parser"]
