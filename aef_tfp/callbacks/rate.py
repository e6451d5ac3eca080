"""The step size among the logs of an epoch."""

from typing import Any

import keras

__all__ = ["LearningRate", "learning_rate_of"]


def learning_rate_of(model: keras.Model) -> float:
    """Returns the learning rate that the next step has."""
    return float(keras.ops.convert_to_numpy(model.optimizer.learning_rate))


class LearningRate(keras.callbacks.Callback):
    """Adds `learning_rate` to the logs of each epoch: what the next step has.

    It comes before the callbacks that write logs, such as `History`.
    """

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Adds it."""
        if logs is not None:
            logs["learning_rate"] = learning_rate_of(self.model)
