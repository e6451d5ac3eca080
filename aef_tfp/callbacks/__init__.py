"""Keras callbacks of a run: files, and what TensorBoard shows.

Those that need it take `iteration_of`, which says how many training steps are done at
the end of an epoch (an epoch is one validation interval, and the last one may be
shorter).
"""

from aef_tfp.callbacks.files import Checkpoints, History
from aef_tfp.callbacks.tensorboard import (
    Pictures,
    Scalars,
    write_hyperparameters,
    write_projector,
)

__all__ = [
    "Checkpoints",
    "History",
    "Pictures",
    "Scalars",
    "write_hyperparameters",
    "write_projector",
]
