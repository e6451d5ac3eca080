"""Validation of averaged weights beside the training of the others."""

from typing import Any

import keras

__all__ = ["AveragedWeights"]


class AveragedWeights(keras.callbacks.Callback):
    """Validates the moving averages of the weights that an optimizer keeps.

    For optimizers with `use_ema=True`; with others it does nothing. `Checkpoints` then
    saves the averages as `best.keras`, and in its checkpoints the weights in training
    with the averages beside them; `Scalars` and `Pictures` show the averages.

    Keras's own `SwapEMAWeights` exchanges weights and averages by additions, whose
    rounding changes the training that is validated. Here a run with validations, and
    one that was interrupted in any of them, has the weights of one without.

    Keras ends `fit` with the averages in the model. This callback puts the weights in
    training back, so that another `fit` goes on from them. Keras's `ModelCheckpoint`
    and `EarlyStopping` keep the weights in training, too, whatever was validated.

    An average begins as a copy of the weights after the first step. Until some
    1 / (1 - momentum) steps are done it is mostly of weights that knew nothing.
    """

    def __init__(self) -> None:
        super().__init__()
        self._trained: Any = None

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Checks that nobody else exchanges the weights; keeps a copy of them.

        Raises:
            ValueError: If `fit` has a `SwapEMAWeights`, too.
        """
        if self.model.averages.are_exchanged_by_keras:
            raise ValueError(
                "AveragedWeights and Keras's SwapEMAWeights would both exchange "
                "weights and averages, and train others: pass one of the two."
            )
        # Whatever asks before the first validation is to get what it will be of.
        self.model.averages.are_validated = self.model.averages.exist
        # Keras leaves the averages where no epoch is left to train, too. What an
        # interrupted `fit` has kept here is older.
        self._trained = self.model.averages.copy()

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Gives the model the averages."""
        self.model.averages.put_in()

    def on_test_end(self, logs: dict[str, Any] | None = None) -> None:
        """Gives the model the weights in training."""
        self.model.averages.put_back()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Keeps a copy of the weights in training: the epoch may be the last one."""
        self._trained = self.model.averages.copy()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Puts them back in the place of the averages that Keras leaves.

        What a callback before this one has restored (`EarlyStopping`) stays.
        """
        if self._trained is not None and self.model.averages.equal_weights:
            self.model.averages.assign(self._trained)
        self._trained = None
