"""How long a run will take, as soon as its first steps say so."""

import time
from typing import Any

import keras

from aef_tfp.callbacks.iterations import IterationOf

__all__ = ["Duration"]

# Executions of the training function that are measured; fewer after so many seconds.
_EXECUTIONS = 3
_SECONDS = 10.0


class Duration(keras.callbacks.Callback):
    """Prints once about how long training will take: measured, not guessed.

    What is measured are the first executions of the training function after the one
    that compiles it. If an epoch ends before, those it had must do, and if it had none,
    the next epoch's. The time of validations is not in it.

    Args:
        iteration_of: Iterations done at the end of an epoch.
        done: Iterations done before.
        total: Iterations in all.
        verbose: Keras's verbosity: 0 prints nothing, and 2 shows no progress bar
            whose line this one would have to leave.
    """

    def __init__(
        self, iteration_of: IterationOf, done: int, total: int, verbose: Any = 1
    ):
        super().__init__()
        self.iteration_of = iteration_of
        self.done = done
        self.total = total
        self.verbose = verbose
        self._is_said = verbose == 0
        self._is_compiled = False
        self._iteration = self._epoch_end = done
        self._began = 0.0
        self._seconds = 0.0
        self._steps = self._executions = 0

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Another `fit` may compile another function."""
        self._is_compiled = False

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Finds out where the epoch begins and ends."""
        before = self.iteration_of(epoch - 1) if epoch else 0
        self._epoch_start = self._iteration = max(before, self._iteration)
        self._epoch_end = self.iteration_of(epoch)

    def on_train_batch_begin(
        self, batch: int, logs: dict[str, Any] | None = None
    ) -> None:
        """Starts the clock."""
        self._began = time.perf_counter()

    def on_train_batch_end(
        self, batch: int, logs: dict[str, Any] | None = None
    ) -> None:
        """Stops the clock, and says it if enough is known."""
        if self._is_said:
            return
        iteration = self._epoch_start + batch + 1
        if self._is_compiled:
            self._seconds += time.perf_counter() - self._began
            self._steps += iteration - self._iteration
            self._executions += 1
        self._is_compiled = True
        self._iteration = iteration
        is_enough = self._executions >= _EXECUTIONS or self._seconds >= _SECONDS
        if self._executions and (is_enough or iteration >= self._epoch_end):
            self._is_said = True
            # A progress bar leaves its line unfinished.
            print("" if self.verbose == 2 else "\n", self._line(), sep="", flush=True)

    def _line(self) -> str:
        second = self._seconds / self._steps
        to_validation = (self._epoch_end - self._iteration) * second
        to_end = (self.total - self._iteration) * second
        which = "next" if self._epoch_start else "first"
        rest = "the remaining" if self.done else "all"
        number = self.total - self.done
        return (
            f"about {second:.2g} s per iteration: {which} validation in about "
            f"{_duration(to_validation)}, {rest} {number:,} iterations in about "
            f"{_duration(to_end)} without validations"
        )


def _duration(seconds: float) -> str:
    """A duration as a person would round it."""
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 1.5 * size:
            number = seconds / size
            return f"{number:.1f} {unit}" if number < 3 else f"{number:.0f} {unit}"
    return f"{max(1, round(seconds))} s"
