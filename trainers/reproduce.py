"""Repeats a table or figure of the paper: `reproduce.py --table 1 --dataset mnist`."""

import sys

from aef_tfp.runs.commands.reproduce import main

if __name__ == "__main__":
    sys.exit(main())
