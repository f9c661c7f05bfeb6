"""Run the command line as `python -m ebmeta`."""

import sys

from ebmeta.app.cli import main

sys.exit(main())
