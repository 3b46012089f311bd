"""`python -m genrefine.cli`: the command line where no script is installed."""

import sys

from genrefine.cli import main

sys.exit(main())
