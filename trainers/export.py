"""Exports a run for serving: `python trainers/export.py RUN OUT`."""

import sys

from aef_tfp.runs.commands.export import main

if __name__ == "__main__":
    sys.exit(main())
