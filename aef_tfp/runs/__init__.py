"""The experiment harness: what a run is, how it is trained, measured and repeated.

A run is a directory with its settings, checkpoints, best model and numbers. The
modules, those that import no TensorFlow first:

- `kinds`, `config`, `presets`, `unread`, `consistency`, `defaults`: what a kind of
  model has, settings, those with names, which of them nothing would read, that files
  are of one run, what the images choose,
- `command_line`, `commands`: what is typed, see `aef_tfp.__main__`,
- `paper`: the paper's tables and figures, and what it takes to repeat them,
- `building`, `best`, `loading`: the model of a configuration, of a run, of a file,
- `evaluation`, `failures`, `training`: from a configuration to a run directory with
  numbers.

They are imported when they are first used, for example by `aef_tfp.runs.config`.
"""

import importlib
from types import ModuleType

from aef_tfp.memory import collector_paused

__all__: list[str] = []

_SUBMODULES = (
    "best",
    "building",
    "command_line",
    "commands",
    "config",
    "consistency",
    "defaults",
    "evaluation",
    "failures",
    "kinds",
    "loading",
    "paper",
    "presets",
    "training",
    "unread",
)


def __getattr__(name: str) -> ModuleType:
    """Imports a submodule on its first use."""
    if name in _SUBMODULES:
        with collector_paused():
            return importlib.import_module(f"aef_tfp.runs.{name}")
    raise AttributeError(f"module 'aef_tfp.runs' has no attribute {name!r}")
