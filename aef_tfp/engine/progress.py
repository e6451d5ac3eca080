"""Keras's progress bar, in lines that a terminal has room for."""

import shutil
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import keras

__all__ = ["FittingBar", "with_bar"]

# Keras's bar has the latter width; less is enough where numbers want the room.
_NARROWEST, _WIDEST = 5, 20

# What Keras writes beside it, at most: the time that is left, and that of a step.
_TIMES = len(" 59:59 999ms/step")

# A number may have a digit more, or a sign, before the epoch is over.
_GROWTH = 1

_SKIPPED = "skipped_updates"


class FittingBar(keras.callbacks.ProgbarLogger):
    """Keras's progress bar with as many numbers as fit into a line of the terminal.

    A line that wraps cannot be written over: Keras would begin a new one with each
    step. At the end of an epoch all numbers are there, and nothing comes over them.
    `skipped_updates` is shown where there are some. Logs and history have all, always.

    Args:
        in_order: Brings the names of logs in the order of what matters.
    """

    # Keras then need not wait for it, as for its own.
    async_safe = True

    def __init__(self, in_order: Callable[[Iterable[str]], list[str]]):
        super().__init__()
        self.in_order = in_order
        self._bar: Any = None
        self._names: list[str] = []
        self._shown: list[str] = []
        self._room = 0

    def on_train_batch_end(
        self, batch: int, logs: dict[str, Any] | None = None
    ) -> None:
        """Draws the bar of an epoch."""
        super().on_train_batch_end(batch, self._fitting(logs or {}))

    def on_test_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Draws the bar of an evaluation; within `fit` there is none."""
        if not self._called_in_fit:
            super().on_test_batch_end(batch, self._fitting(logs or {}))

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Ends the bar of an epoch, with all numbers."""
        super().on_epoch_end(epoch, _without_zero(logs or {}))

    def on_test_end(self, logs: dict[str, Any] | None = None) -> None:
        """Ends the bar of an evaluation, with all numbers."""
        super().on_test_end(_without_zero(logs or {}))

    def _fitting(self, logs: Mapping[str, Any]) -> dict[str, Any]:
        logs = _without_zero(logs)
        if self.progbar is not self._bar:
            self._bar, self._shown = self.progbar, []
            self._names = self.in_order([*logs, _SKIPPED])
            # In the last column, some terminals wrap.
            columns = shutil.get_terminal_size().columns - 1
            count = "0000000/Unknown"
            if self.target:
                count = f"{self.target}/{self.target} "
            self._room = columns - len(count) - _TIMES
            self._room -= _NARROWEST if self.target else 0
            self._take(logs)
            width = max(_NARROWEST, min(_WIDEST, _NARROWEST + self._room))
            self._room -= width - _NARROWEST
            self.progbar.width = width
        self._take(logs)
        return {name: logs[name] for name in self._shown if name in logs}

    def _take(self, logs: Mapping[str, Any]) -> None:
        """Adds what there is room for; what is shown stays."""
        for name in self._names:
            if name not in logs or name in self._shown:
                continue
            value = float(logs[name])
            # As Keras writes it.
            number = f"{value:.4f}" if abs(value) > 1e-3 else f"{value:.4e}"
            length = len(f" - {name}: {number}") + _GROWTH
            if length <= self._room:
                self._shown.append(name)
                self._room -= length


def _without_zero(logs: Mapping[str, Any]) -> dict[str, Any]:
    """Logs without the count of skipped updates if it is zero, as it should be."""
    return {
        name: value
        for name, value in logs.items()
        if name != _SKIPPED or float(value) != 0.0
    }


def _is_terminal(stream: Any) -> bool:
    # What stands in for it need not have all methods.
    return hasattr(stream, "isatty") and stream.isatty()


def with_bar(
    callbacks: Any, verbose: Any, in_order: Callable[[Iterable[str]], list[str]]
) -> Any:
    """Returns callbacks with a `FittingBar`, where Keras would draw in a terminal.

    Args:
        callbacks: As `fit` takes them; a bar of the user's own is kept.
        verbose: Keras's verbosity.
        in_order: As in `FittingBar`.
    """
    is_drawn = verbose in (1, "auto") and _is_terminal(sys.stdout)
    if not is_drawn or isinstance(callbacks, keras.callbacks.CallbackList):
        return callbacks
    given = keras.tree.flatten(callbacks) if callbacks else []
    if any(isinstance(one, keras.callbacks.ProgbarLogger) for one in given):
        return callbacks
    return [*given, FittingBar(in_order)]
