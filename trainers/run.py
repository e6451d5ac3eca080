"""Trains a model on a data set: `python trainers/run.py digits-aef-center-8`."""

import sys

from aef_tfp.runs.commands.train import main

if __name__ == "__main__":
    sys.exit(main())
