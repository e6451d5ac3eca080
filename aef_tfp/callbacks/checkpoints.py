"""What an interrupted run goes on from, and the best model so far."""

import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras

from aef_tfp.callbacks.iterations import IterationOf
from aef_tfp.callbacks.store import CheckpointStore, size_in_bytes
from aef_tfp.distribution import is_chief, share_from_chief, share_json
from aef_tfp.saved import read_label, save_best

__all__ = ["Checkpoints"]

# Validations in a row without a finite loss after which a run is given up. Where
# another number is watched, like an estimate of the marginal, the loss may be finite.
_MAX_BAD_VALIDATIONS = 3


class Checkpoints(keras.callbacks.Callback):
    """Keeps the best model and the state to resume from; stops when patience ends.

    After each validation, and every `save_interval` steps, it writes
    `checkpoints/iteration-N/`: the weights with the optimizer's state, and what else a
    run needs to go on as if it had never stopped. If the monitored value is the lowest
    yet it also writes `best.keras`. All files are written aside and renamed, so that an
    interruption leaves the former ones.

    While the loss of the last validation was not finite, or updates are being skipped,
    it writes nothing: each checkpoint would push out one that was good. If another
    monitored value alone is not finite, the former best stays, with a warning.

    If the optimizer keeps moving averages (`use_ema`), they are in the checkpoints
    beside the weights in training. Where a callback before this one has them validated
    (`AveragedWeights`, or Keras's `SwapEMAWeights()`), they are the weights of
    `best.keras`.

    Of several workers the chief alone reads and writes.

    Args:
        run_dir: The run's directory.
        iteration_of: Iterations done at the end of an epoch.
        monitor: Name of the log to be minimized.
        patience: Iterations without a better value after which training stops; 0 means
            never.
        save_interval: Steps between two checkpoints within an epoch; 0 writes them
            after validations only.
        keep: Checkpoints to keep, the newest.
        facts: What is to be known of the run, for its checkpoints and best.keras.
    """

    def __init__(
        self,
        run_dir: str | Path,
        iteration_of: IterationOf,
        monitor: str = "val_loss",
        patience: int = 0,
        save_interval: int = 0,
        keep: int = 3,
        facts: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        self.run_dir = Path(run_dir)
        self.best_path = self.run_dir / "best.keras"
        self.store = CheckpointStore(self.run_dir / "checkpoints", keep)
        self.iteration_of = iteration_of
        self.monitor = monitor
        self.patience = patience
        self.save_interval = save_interval
        self.facts = dict(facts or {})
        self.iteration = 0
        self.best = math.inf
        self.best_iteration = 0
        self.stopped_early = False
        # Of the best model, unless that was lost.
        self._waits_from = 0
        self._first = math.inf
        self._bad_validations = 0
        self._warned = False
        self._epoch_start = self._epoch_end = 0
        self._saved = 0
        self._progress: dict[str, Any] | None = None

    def restore(self, model: keras.Model) -> int:
        """Loads the newest checkpoint that is whole into a compiled model.

        All workers have to call it.

        Returns:
            The iterations done: 0 if there is no checkpoint yet.

        Raises:
            ValueError: If there are checkpoints, but all of them are damaged; or if
                best.keras is.
        """
        strategy = model.distribute_strategy
        self._bad_validations = 0
        found = self._read(model) if is_chief(strategy) else None
        self.iteration, state = share_json(strategy, found)
        self._saved = self.iteration
        if not state:
            return 0
        share_from_chief(strategy, [*model.variables, *model.optimizer.variables])
        self.best = _finite_or_inf(state["best"])
        self.best_iteration = state["best_iteration"]
        self._waits_from = state.get("waits_from", self.best_iteration)
        self._first = _finite_or_inf(state["first"])
        self._progress = state["progress"]
        # Patience ends at a validation alone: the next one may be a better one.
        is_validated = self._progress is None
        self.stopped_early = is_validated and self._patience_ended(self.iteration)
        return self.iteration

    def _read(self, model: keras.Model) -> tuple[int, dict[str, Any]]:
        """Reads the newest checkpoint, and sees to it that the best model is there."""
        iteration, state = self.store.read(model)
        if not state or not state["best_iteration"]:
            return iteration, state
        if self.best_path.is_file():
            # To go on for hours beside a file that nobody can load would be a pity.
            read_label(self.best_path)
            return iteration, state
        warnings.warn(
            f"{self.best_path} is gone; the model of the next validation takes its "
            "place as the best.",
            stacklevel=3,
        )
        anew = {"best": None, "best_iteration": 0, "waits_from": iteration}
        return iteration, state | anew

    def save(self) -> None:
        """Writes a checkpoint of the present iteration, unless there is one.

        It writes none while training goes wrong (see the class), or while the model has
        averages for weights, as in a validation of them.
        """
        self._save()

    def _save(self, saved: Path | None = None) -> None:
        goes_wrong = self._bad_validations > 0 or self.model.is_skipping
        if self._saved == self.iteration or goes_wrong:
            return
        if self.model.averages.are_in_model:
            # They would be taken for the weights in training.
            return
        # After an epoch the means are those of its validation. Else the workers'
        # metrics are summed, so all of them take part.
        progress = None if self.is_epoch_done else self.model.get_progress()
        self._saved = self.iteration
        if not is_chief(self.model.distribute_strategy):
            return
        state = self.facts | {
            "best": _finite_or_none(self.best),
            "best_iteration": self.best_iteration,
            "waits_from": self._waits_from,
            "first": _finite_or_none(self._first),
            "progress": progress,
        }
        self.store.write(self.model, self.iteration, state, saved)

    @property
    def saved_iteration(self) -> int:
        """Training steps done in the newest checkpoint; 0 if there is none."""
        return self._saved

    @property
    def is_best_lost(self) -> bool:
        """Whether best.keras was removed, and no validation has written it since."""
        return self._waits_from > 0 and not self.best_iteration

    @property
    def is_epoch_done(self) -> bool:
        """Whether only the validation is left of the epoch, after which it saves."""
        return self.iteration >= self._epoch_end

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Checks that there will be something to watch.

        Raises:
            ValueError: If `fit` was given no validation data, and a loss of those is
                what decides on the best model; or if the weights in training are not in
                the model where they are to be saved.
        """
        if self.model.averages.stay_after_epoch:
            raise ValueError(
                "SwapEMAWeights(swap_on_epoch=True) has taken the weights in training "
                "out of the model when Checkpoints saves them: use "
                "aef_tfp.callbacks.AveragedWeights() in its place."
            )
        if self.monitor.startswith("val_") and not getattr(
            self.model, "is_validated", True
        ):
            raise ValueError(
                f"Checkpoints watch {self.monitor!r}, but fit has no validation data, "
                "so there would be no best model: pass validation_data=..., or another "
                "monitor."
            )

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Goes on with the means of the epoch that a checkpoint was written in."""
        before = self.iteration_of(epoch - 1) if epoch else 0
        self._epoch_start = max(before, self.iteration)
        self._epoch_end = self.iteration_of(epoch)
        if self._progress is not None and self._epoch_start > before:
            self.model.set_progress(self._progress)
        self._progress = None

    def on_train_batch_end(
        self, batch: int, logs: dict[str, Any] | None = None
    ) -> None:
        """Saves, if it is time."""
        self.iteration = self._epoch_start + batch + 1
        interval = self.save_interval
        is_time = interval and self.iteration // interval > self._saved // interval
        if is_time and not self.is_epoch_done:
            self.save()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Saves, and stops training when patience ends.

        Raises:
            FloatingPointError: If value and loss are not finite for the third time in a
                row.
            ValueError: If no callback before this one has put it among the logs.
        """
        logs = logs or {}
        value = logs.get(self.monitor)
        if value is None:
            raise ValueError(
                f"Checkpoints watch {self.monitor!r}, which is not among the logs, "
                f"{', '.join(sorted(logs))}: watch one of them, or pass the "
                "callback that adds it before Checkpoints."
            )
        self.iteration = self.iteration_of(epoch)
        is_finite = math.isfinite(value)
        # The training is as good as its loss says, but what has chosen no model yet may
        # never choose one.
        loss = logs.get("val_loss", logs.get("loss", value))
        is_good = is_finite or (self.best_iteration > 0 and math.isfinite(loss))
        self._bad_validations = 0 if is_good else self._bad_validations + 1
        if is_finite and not math.isfinite(self._first):
            self._first = value
        is_best = is_finite and value < self.best
        if is_best:
            self.best = value
            self.best_iteration = self._waits_from = self.iteration
            if is_chief(self.model.distribute_strategy):
                label = {"iteration": self.iteration, self.monitor: float(value)}
                label |= self.facts
                size = size_in_bytes(self.model)
                with self.model.averages.validated():
                    save_best(self.model, self.best_path, label, size)
        # What was validated may not be what is trained.
        is_same = is_best and not self.model.averages.are_validated
        self._save(self.best_path if is_same else None)
        self._check_divergence(value)
        if self._patience_ended(self.iteration):
            self.stopped_early = True
            self.model.stop_training = True

    def _patience_ended(self, iteration: int) -> bool:
        waited = iteration - self._waits_from
        return self.patience > 0 and waited >= self.patience

    def _check_divergence(self, value: float) -> None:
        best = "there is no best.keras yet"
        if self.best_iteration:
            best = f"the best model, of iteration {self.best_iteration}, is best.keras"
        if self._bad_validations >= _MAX_BAD_VALIDATIONS:
            raise FloatingPointError(
                f"{self.monitor} was not finite in {self._bad_validations} validations "
                f"in a row, the last at iteration {self.iteration}; lower the learning "
                f"rate, or check the validation data; {best}."
            )
        if not math.isfinite(value):
            good = "" if self._bad_validations else ", though the loss is finite"
            warnings.warn(
                f"{self.monitor} is {value} at iteration {self.iteration}{good}; "
                f"{best}.",
                stacklevel=2,
            )
        elif value > self._first and not self._warned:
            self._warned = True
            warnings.warn(
                f"{self.monitor} is {value:.6g} at iteration {self.iteration}, worse "
                f"than {self._first:.6g} at the first validation; {best}.",
                stacklevel=2,
            )


def _finite_or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _finite_or_inf(value: float | None) -> float:
    return math.inf if value is None else value
