"""Evaluates runs and compares them: `python trainers/evaluate.py RUN`."""

import sys

from aef_tfp.runs.commands.evaluate import main

if __name__ == "__main__":
    sys.exit(main())
