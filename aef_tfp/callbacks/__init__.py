"""Keras callbacks of a run: its files, how it stops, and what TensorBoard shows.

Those that need it take `iteration_of`, which says how many training steps are done at
the end of an epoch (an epoch is one validation interval, and the last one may be
shorter).
"""

from aef_tfp.callbacks.averaging import AveragedWeights
from aef_tfp.callbacks.checkpoints import Checkpoints
from aef_tfp.callbacks.duration import Duration
from aef_tfp.callbacks.heartbeat import Heartbeat
from aef_tfp.callbacks.history import History
from aef_tfp.callbacks.marginal import MarginalBits
from aef_tfp.callbacks.rate import LearningRate
from aef_tfp.callbacks.signals import RunInterrupted, StopOnSignal
from aef_tfp.callbacks.store import CheckpointStore
from aef_tfp.callbacks.tensorboard import (
    Pictures,
    Scalars,
    write_hyperparameters,
    write_projector,
)

__all__ = [
    "AveragedWeights",
    "CheckpointStore",
    "Checkpoints",
    "Duration",
    "Heartbeat",
    "History",
    "LearningRate",
    "MarginalBits",
    "Pictures",
    "RunInterrupted",
    "Scalars",
    "StopOnSignal",
    "write_hyperparameters",
    "write_projector",
]
