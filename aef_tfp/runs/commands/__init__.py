"""What can be typed: each module is one command, its `main(argv)` returns the status.

`aef_tfp.__main__` finds them by their names, and the scripts in `trainers/` are the
same for who works in the repository. Importing a command starts no TensorFlow.
"""

__all__ = ["COMMANDS"]

COMMANDS = {
    "train": "train a model on a data set, or resume that",
    "evaluate": "measure the best model of a run, or compare runs",
    "export": "write the best model of a run for serving",
    "reproduce": "repeat a table or figure of the paper",
    "presets": "list what can be trained by name",
}
"""What each command does, in the order of `aef-tfp --help`."""
