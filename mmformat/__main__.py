"""Run the command line as `python -m mmformat`."""

from __future__ import annotations

import sys

from mmformat.cli import main

if __name__ == "__main__":
    sys.exit(main())
