"""Run the command line by `python -m genrefine`."""

import sys

from genrefine.cli import main

if __name__ == "__main__":
    sys.exit(main())
