"""A clean end when somebody or something wants a run to stop."""

import os
import signal
import threading
from typing import Any

import keras

from aef_tfp.callbacks.checkpoints import Checkpoints
from aef_tfp.distribution import any_worker

__all__ = ["RunInterrupted", "StopOnSignal"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class RunInterrupted(KeyboardInterrupt):
    """A run was asked to stop, and has saved what it needs to go on.

    A KeyboardInterrupt, so that a series of runs stops, too.

    Args:
        signal_number: What asked for it, as in the module `signal`.
        iteration: Training steps done in the newest checkpoint.
    """

    def __init__(self, signal_number: int, iteration: int):
        super().__init__(f"interrupted and saved at iteration {iteration}")
        self.signal_number = signal_number
        self.iteration = iteration


class StopOnSignal(keras.callbacks.Callback):
    """Saves and stops after the present step on SIGINT (Ctrl-C) or SIGTERM.

    A context manager: signals are caught inside the `with` only. A second SIGINT stops
    at once, without saving. If one of several workers is asked, all of them stop.

    Args:
        checkpoints: The callback that saves; it comes before this one.

    Raises:
        RunInterrupted: From `fit`, when the checkpoint is written.

    Example:
        >>> with StopOnSignal(checkpoints) as stop:
        ...     model.fit(batches, callbacks=[checkpoints, stop], steps_per_epoch=500)
    """

    def __init__(self, checkpoints: Checkpoints):
        super().__init__()
        self.checkpoints = checkpoints
        self._received: int | None = None
        self._former: dict[int, Any] = {}

    def __enter__(self) -> "StopOnSignal":
        """Starts to catch the signals, which Python allows in the main thread only."""
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                self._former[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *exception: object) -> None:
        """Gives the signals back to whoever had them."""
        for number, handler in self._former.items():
            signal.signal(number, handler)
        self._former.clear()

    def _receive(self, number: int, frame: object) -> None:
        if self._received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._received = number
        # Not print: the signal may have come in the middle of one.
        os.write(2, b"\nSaving after this step; Ctrl-C once more stops at once.\n")

    def on_train_batch_end(
        self, batch: int, logs: dict[str, Any] | None = None
    ) -> None:
        """Saves and stops, unless a validation comes next."""
        if not self.checkpoints.is_epoch_done:
            self._stop_if_asked()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Stops after the validation."""
        self._stop_if_asked()

    def _stop_if_asked(self) -> None:
        asked = self._received is not None
        if any_worker(self.model.distribute_strategy, asked):
            self.checkpoints.save()
            number = self._received or signal.SIGTERM
            raise RunInterrupted(number, self.checkpoints.saved_iteration)
