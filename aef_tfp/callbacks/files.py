"""What a run writes for itself: its history, and checkpoints."""

import json
import math
import os
import re
import shutil
from pathlib import Path
from typing import Any

import keras

from aef_tfp.callbacks.iterations import IterationOf

__all__ = ["Checkpoints", "History"]


class History(keras.callbacks.CSVLogger):
    """Keras's CSVLogger with the iteration beside the epoch; it appends.

    Args:
        path: The CSV file.
        iteration_of: Iterations done at the end of an epoch.
    """

    def __init__(self, path: Path, iteration_of: IterationOf):
        super().__init__(str(path), append=True)
        self.iteration_of = iteration_of

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Writes one row."""
        logs = {"iteration": self.iteration_of(epoch), **(logs or {})}
        super().on_epoch_end(epoch, logs)


class Checkpoints(keras.callbacks.Callback):
    """Keeps the best model and the state to resume from; stops when patience ends.

    After each validation it writes `checkpoints/iteration-N/` (weights with the
    optimizer's state, and state.json) and removes the one before, and writes
    `best.keras` if the monitored value is the lowest yet. The first validation is
    always the best yet. Files are written aside and renamed, so that an interruption
    leaves the former ones.

    Args:
        run_dir: The run's directory.
        iteration_of: Iterations done at the end of an epoch.
        monitor: Name of the log to be minimized.
        patience: Iterations without a better value after which training stops; 0 means
            never.
    """

    def __init__(
        self,
        run_dir: Path,
        iteration_of: IterationOf,
        monitor: str = "val_loss",
        patience: int = 0,
    ):
        super().__init__()
        self.best_path = run_dir / "best.keras"
        self.directory = run_dir / "checkpoints"
        self.iteration_of = iteration_of
        self.monitor = monitor
        self.patience = patience
        self.best = math.inf
        self.best_iteration = 0
        self.stopped_early = False

    def restore(self, model: keras.Model) -> int:
        """Loads the newest checkpoint into a compiled model.

        Returns:
            The iterations done: 0 if there is no checkpoint yet.
        """
        found = self._existing()
        if not found:
            return 0
        iteration, directory = found[-1]
        state = json.loads((directory / "state.json").read_text())
        self.best = math.inf if state["best"] is None else state["best"]
        self.best_iteration = state["best_iteration"]
        model.load_weights(directory / "model.weights.h5")
        self.stopped_early = self._patience_ended(iteration)
        return iteration

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Saves, and stops training when patience ends."""
        value = (logs or {})[self.monitor]
        iteration = self.iteration_of(epoch)
        if value < self.best or not self.best_path.exists():
            # A first value that is not finite must not count as the one to beat.
            self.best = value if math.isfinite(value) else math.inf
            self.best_iteration = iteration
            aside = self.best_path.with_name(".best.writing.keras")
            self.model.save(aside)
            os.replace(aside, self.best_path)
        self._save(iteration)
        if self._patience_ended(iteration):
            self.stopped_early = True
            self.model.stop_training = True

    def _patience_ended(self, iteration: int) -> bool:
        waited = iteration - self.best_iteration
        return self.patience > 0 and waited >= self.patience

    def _save(self, iteration: int) -> None:
        former = self._existing()
        aside = self.directory / ".writing"
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        self.model.save_weights(aside / "model.weights.h5")
        state = {
            "best": self.best if math.isfinite(self.best) else None,
            "best_iteration": self.best_iteration,
        }
        (aside / "state.json").write_text(json.dumps(state))
        target = self.directory / f"iteration-{iteration:08d}"
        if target.exists():
            shutil.rmtree(target)
        os.replace(aside, target)
        for _, directory in former:
            if directory != target:
                shutil.rmtree(directory)

    def _existing(self) -> list[tuple[int, Path]]:
        """Returns (iteration, directory) of all checkpoints, oldest first."""
        found = []
        for directory in self.directory.glob("iteration-*"):
            if match := re.fullmatch(r"iteration-(\d+)", directory.name):
                found.append((int(match.group(1)), directory))
        return sorted(found)
