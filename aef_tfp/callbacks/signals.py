"""A clean end when somebody or something wants a run to stop."""

import contextlib
import os
import signal
import threading
from typing import Any

import keras

from aef_tfp.callbacks.checkpoints import Checkpoints
from aef_tfp.distribution import any_worker

__all__ = ["RunInterrupted", "StopOnSignal"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

# For the handler, and for what it ends.
_GRACE_SECONDS = 3.0

_SAVING = b"\nSaving after this step; Ctrl-C once more stops at once.\n"


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
    """Saves and stops after the present step on SIGINT (Ctrl-C), SIGTERM or SIGHUP.

    SIGHUP is the end of a terminal; where it is ignored, as by `nohup`, it still is. A
    context manager: signals are caught inside the `with` only. A second SIGINT stops
    at once, without saving, and so does the first one if there is nothing to save yet.
    If one of several workers is asked, all of them stop.

    Python hands a signal to its handler when the running operation is done; compiling a
    step is one of half a minute. A thread hears of it at once, and ends the process
    if the handler was not reached in time.

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
        self._is_over = threading.Event()
        self._pipe: tuple[int, int] | None = None
        self._former_fd = -1
        self._former: dict[int, Any] = {}

    def __enter__(self) -> "StopOnSignal":
        """Starts to catch the signals, which Python allows in the main thread only."""
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                ignored = signal.getsignal(number) == signal.SIG_IGN
                if number == signal.SIGHUP and ignored:
                    continue
                self._former[number] = signal.signal(number, self._receive)
            self._pipe = os.pipe()
            os.set_blocking(self._pipe[1], False)
            self._former_fd = signal.set_wakeup_fd(
                self._pipe[1], warn_on_full_buffer=False
            )
            watch = threading.Thread(
                target=self._watch, args=(self._pipe[0],), daemon=True
            )
            watch.start()
        return self

    def __exit__(self, *exception: object) -> None:
        """Gives the signals back to whoever had them."""
        self._is_over.set()
        if self._pipe is not None:
            signal.set_wakeup_fd(self._former_fd)
            # The thread ends, and closes what it reads from.
            os.close(self._pipe[1])
            self._pipe = None
        for number, handler in self._former.items():
            signal.signal(number, handler)
        self._former.clear()

    def _receive(self, number: int, frame: object) -> None:
        again = self._received is not None
        self._received = number
        if number == signal.SIGINT and (again or not self._has_unsaved):
            raise KeyboardInterrupt

    @property
    def _has_unsaved(self) -> bool:
        return self.checkpoints.iteration != self.checkpoints.saved_iteration

    def _watch(self, source: int) -> None:
        heard = 0
        while received := os.read(source, 1):
            number = received[0]
            heard += number == signal.SIGINT
            if number == signal.SIGINT and (heard > 1 or not self._has_unsaved):
                if not self._is_over.wait(_GRACE_SECONDS):
                    saved = self.checkpoints.saved_iteration
                    text = "interrupted before a checkpoint was saved"
                    if saved:
                        text = f"interrupted; --resume goes on from iteration {saved}"
                    _say(f"\n{text}\n".encode())
                    os._exit(128 + number)
            elif number in _SIGNALS:
                _say(_SAVING)
        os.close(source)

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


def _say(text: bytes) -> None:
    # Of a terminal that is gone, nobody listens.
    with contextlib.suppress(OSError):
        os.write(2, text)
