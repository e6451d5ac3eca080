"""Checkpoints on disk: written whole, checked when read, the newest few kept."""

import hashlib
import json
import math
import os
import shutil
import warnings
import zipfile
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from aef_tfp.files import CannotWrite, check_room, flush_to_disk
from aef_tfp.saved import checkpoint_paths, read_checkpoint_state

__all__ = ["CheckpointStore", "size_in_bytes"]

_WEIGHTS = "model.weights.h5"
_STATE = "state.json"
# In the format of sha256sum, so that `sha256sum -c SHA256SUMS` checks them, too.
_SUMS = "SHA256SUMS"

# What an HDF5 file, or a model's configuration, takes beside the numbers.
_BYTES_PER_VARIABLE = 4096


class CheckpointStore:
    """The checkpoints of one run, `iteration-N/` each.

    A checkpoint is written aside, flushed to the disk, and renamed, so that its
    directory is whole. Damage that comes later is recognized by the checksums.

    Args:
        directory: Where they lie; it need not exist yet.
        keep: How many to keep, the newest; at least 1.
    """

    def __init__(self, directory: str | Path, keep: int = 3):
        if keep < 1:
            raise ValueError(f"keep must be at least 1, got {keep!r}.")
        self.directory = Path(directory)
        self.keep = keep

    def write(
        self,
        model: keras.Model,
        iteration: int,
        state: dict[str, Any],
        saved: Path | None = None,
    ) -> None:
        """Writes one checkpoint, then removes those that are one too many.

        Args:
            model: A compiled model; its weights and its optimizer's state are written.
            iteration: Training steps done.
            state: What else a run needs to continue, as JSON takes it.
            saved: A `.keras` file of the model as it is now, to take them from. Keras
                goes through all attributes of a model to write them anew.

        Raises:
            CannotWrite: If it cannot be written; former checkpoints are intact.
        """
        aside, target = self.directory / ".writing", self._path(iteration)
        try:
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir(parents=True)
            check_room(aside / _WEIGHTS, size_in_bytes(model))
            if saved is None:
                model.save_weights(aside / _WEIGHTS)
            else:
                # A `.keras` file is an archive that has them under this name.
                with zipfile.ZipFile(saved) as archive:
                    archive.extract(_WEIGHTS, aside)
            (aside / _STATE).write_text(json.dumps(state, indent=2))
            sums = (f"{_sum(aside / name)}  {name}\n" for name in (_WEIGHTS, _STATE))
            (aside / _SUMS).write_text("".join(sums))
            for path in (*aside.iterdir(), aside):
                flush_to_disk(path)
            # A directory with files cannot be renamed over. This one is of a run that
            # came here before.
            shutil.rmtree(target, ignore_errors=True)
            os.replace(aside, target)
            flush_to_disk(self.directory)
        except Exception as error:
            # h5py and Keras have errors of several kinds for a full disk.
            shutil.rmtree(aside, ignore_errors=True)
            former = self.newest_path()
            kept = f"{former} is intact" if former else "there is no former one"
            reason = str(error).partition("\n")[0]
            raise CannotWrite(
                f"The checkpoint of iteration {iteration} could not be saved in "
                f"{self.directory}: {reason}; {kept}. Make room there and resume."
            ) from error
        done = [path for number, path in self.existing() if number <= iteration]
        for path in done[: -self.keep]:
            shutil.rmtree(path)

    def read(self, model: keras.Model) -> tuple[int, dict[str, Any]]:
        """Loads the newest checkpoint that is whole into a compiled model.

        Damaged ones are passed over with a warning.

        Returns:
            Training steps done, and the state; 0 and {} if there is no checkpoint.

        Raises:
            ValueError: If all are damaged.
        """
        found = self.existing()[::-1]
        for iteration, path in found:
            damage = _damage(path)
            if not damage:
                _load(model, path / _WEIGHTS)
                return iteration, json.loads((path / _STATE).read_text())
            warnings.warn(
                f"The checkpoint {path} is damaged ({damage}) and passed over.",
                stacklevel=2,
            )
        if found:
            raise ValueError(
                f"All {len(found)} checkpoints in {self.directory} are damaged; start "
                "a new run, or from best.keras if that can be loaded."
            )
        return 0, {}

    def newest_state(self) -> tuple[int, dict[str, Any]]:
        """Returns steps and state of the newest whole one; 0 and {} if none is."""
        for iteration, path in self.existing()[::-1]:
            if not _damage(path):
                return iteration, read_checkpoint_state(path)
        return 0, {}

    def newest_path(self) -> Path | None:
        """Returns the newest checkpoint that is whole; None if there is none."""
        paths = (path for _, path in self.existing()[::-1])
        return next((path for path in paths if not _damage(path)), None)

    def existing(self) -> list[tuple[int, Path]]:
        """Returns (iteration, directory) of all checkpoints, oldest first."""
        return checkpoint_paths(self.directory)

    def _path(self, iteration: int) -> Path:
        return self.directory / f"iteration-{iteration:08d}"


def _load(model: keras.Model, path: Path) -> None:
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model.load_weights(path)
    except ValueError as error:
        # The file is whole, so that it is of another model.
        reason = str(error).strip().partition("\n")[0].rstrip(".")
        raise ValueError(f"{path} does not fit the model: {reason}.") from None
    # Keras would go on with an optimizer that begins anew.
    if any("loading for optimizer" in str(warning.message) for warning in caught):
        raise ValueError(
            f"{path} holds the state of another optimizer, or that of an older version "
            "of aef_tfp, which kept it otherwise: go on with what wrote it, or start a "
            "new run."
        )


def size_in_bytes(model: keras.Model) -> int:
    """Returns about the size of a file with a model's weights and optimizer state."""
    variables = [*model.variables, *model.optimizer.variables]
    numbers = sum(
        math.prod(variable.shape) * tf.as_dtype(variable.dtype).size
        for variable in variables
    )
    return numbers + _BYTES_PER_VARIABLE * len(variables)


def _sum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _damage(path: Path) -> str:
    """Says what is wrong with a checkpoint's files; nothing if they are whole."""
    try:
        lines = (path / _SUMS).read_text().splitlines()
        sums = {name: digest for digest, name in (line.split() for line in lines)}
    except (OSError, ValueError):
        return f"{_SUMS} is missing or unreadable"
    for name in (_WEIGHTS, _STATE):
        if not (path / name).is_file():
            return f"{name} is missing"
        if _sum(path / name) != sums.get(name):
            return f"{name} is not as it was written"
    return ""
