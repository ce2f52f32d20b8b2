"""The command line: one module a command, and one module that prints."""

from mmformat.cli.front import main

__all__ = ["main"]
