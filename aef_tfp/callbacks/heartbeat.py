"""A word where nothing else would be said for a while."""

import contextlib
import time
from typing import Any

import keras

from aef_tfp.callbacks.iterations import IterationOf
from aef_tfp.terminal import LINE_SECONDS, waiting

__all__ = ["Heartbeat"]


class Heartbeat(keras.callbacks.Callback):
    """Says that a step is being prepared, and where there is no bar, how far it got.

    The first step and the first validation are traced and compiled before they run,
    which takes longer than hundreds of steps. With Keras's verbosity 2 an epoch is one
    line; if it takes longer than a minute, it gets a line a minute.

    A context manager, since an error in a step leaves no callback to stop a spinner.

    Args:
        iteration_of: Iterations done at the end of an epoch.
        done: Iterations done before.
        total: Iterations in all.
        verbose: Keras's verbosity; 0 says nothing.
    """

    def __init__(
        self, iteration_of: IterationOf, done: int, total: int, verbose: Any = 1
    ):
        super().__init__()
        self.iteration_of = iteration_of
        self.total = total
        self.verbose = verbose
        self._epoch_start = self._iteration = done
        self._prepared: set[str] = set()
        self._waiting = contextlib.ExitStack()
        self._last = time.monotonic()

    def __enter__(self) -> "Heartbeat":
        """Nothing is said before a step begins."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Stops a spinner that is still there."""
        self._waiting.close()

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Finds out where the epoch begins."""
        before = self.iteration_of(epoch - 1) if epoch else 0
        self._epoch_start = max(before, self._iteration)
        self._last = time.monotonic()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Keras's own line comes next."""
        self._last = time.monotonic()

    def on_train_batch_begin(
        self, batch: int, logs: dict[str, Any] | None = None
    ) -> None:
        """Says so if this is the step that is compiled."""
        self._prepare("training step")

    def on_train_batch_end(
        self, batch: int, logs: dict[str, Any] | None = None
    ) -> None:
        """Says how far it got, if it is time."""
        self._waiting.close()
        self._iteration = self._epoch_start + batch + 1
        if self._is_time():
            loss = (logs or {}).get("loss")
            shown = "" if loss is None else f", loss {float(loss):.5g}"
            print(f"iteration {self._iteration:,} of {self.total:,}{shown}", flush=True)

    def on_test_batch_begin(
        self, batch: int, logs: dict[str, Any] | None = None
    ) -> None:
        """Says so if this is the step that is compiled."""
        self._prepare("validation")

    def on_test_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Says how far it got, if it is time."""
        self._waiting.close()
        if self._is_time():
            print(
                f"validation at iteration {self._iteration:,}: batch {batch + 1:,}",
                flush=True,
            )

    def _prepare(self, what: str) -> None:
        if self.verbose and what not in self._prepared:
            self._prepared.add(what)
            self._waiting.enter_context(waiting(f"preparing the {what}"))

    def _is_time(self) -> bool:
        now = time.monotonic()
        if self.verbose != 2 or now - self._last < LINE_SECONDS:
            return False
        self._last = now
        return True
