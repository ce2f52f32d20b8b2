"""Run the command line as `python -m mmformat`."""

import sys

from mmformat.cli import main

if __name__ == "__main__":
    sys.exit(main())
