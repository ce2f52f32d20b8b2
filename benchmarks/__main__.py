"""Run one scenario, or make the pages from results: ``python -m benchmarks --help``."""

import sys

from benchmarks.commands import parser
from mmformat.cli.front import main

if __name__ == "__main__":
    sys.exit(main(parser=parser))
