"""The best model of a run: weights, which ones they are, what was tuned for them."""

import dataclasses
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import keras

from aef_tfp.files import replace_text
from aef_tfp.models import EventModel
from aef_tfp.runs.config import RunConfig
from aef_tfp.runs.consistency import check_weights
from aef_tfp.saved import DamagedFile, damaged_model, read_json, read_label, snapshot
from aef_tfp.terminal import as_typed

__all__ = [
    "BestModel",
    "keep_scales",
    "load_best",
    "loading_error",
    "read_best",
    "use_kept_scales",
]

# What evaluations have tuned. best.keras is the training's, which may be under way.
_SCALES = "proposal-scales.json"


@dataclasses.dataclass(frozen=True)
class BestModel:
    """The best model of a run, and which one it is.

    Args:
        model: The model.
        label: What the file says of it: `iteration`, and the loss; {} if nothing.
        digest: The file's SHA-256.
    """

    model: Any
    label: dict[str, Any]
    digest: str

    @property
    def iteration(self) -> int | None:
        """Training iterations behind the weights; None if unknown."""
        return self.label.get("iteration")


def load_best(run_dir: str | Path) -> Any:
    """Loads the best checkpoint of a run, with what evaluations have tuned for it.

    Raises:
        FileNotFoundError: If the run has none.
        DamagedFile: If it, or the file of what was tuned, is damaged.
    """
    run_dir = Path(run_dir)
    best = read_best(run_dir)
    use_kept_scales(best, run_dir)
    return best.model


def read_best(run_dir: str | Path) -> BestModel:
    """Reads best.keras, weights and label at once: a training may write another one.

    Raises:
        FileNotFoundError: If the run has none.
        DamagedFile: If it is damaged.
        ValueError: If another version wrote it, or it is the best of another run.
    """
    run_dir = Path(run_dir)
    path = run_dir / "best.keras"
    config = RunConfig.from_run(run_dir)
    if not path.exists():
        raise FileNotFoundError(
            f"{run_dir} has no best.keras: it has not reached its first validation; go "
            f"on with {as_typed('train', '--resume', run_dir)}."
        )
    with snapshot(path) as copy:
        label = read_label(copy, path)
        check_weights(config, label.get("settings"), path)
        with copy.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        try:
            model = keras.saving.load_model(copy)
        except Exception as error:
            # Keras and HDF5 have errors of many kinds; the checksums were right.
            raise loading_error(path, error) from error
    if not isinstance(model, EventModel):
        raise damaged_model(path, f"it holds a {type(model).__name__}")
    return BestModel(model, label, digest)


def loading_error(path: Path, error: Exception) -> ValueError:
    """Returns what to raise, in one line, when Keras could not load a whole file.

    Args:
        path: The file.
        error: What Keras raised.
    """
    message = str(error).strip() or type(error).__name__
    if isinstance(error, ValueError) and message.startswith("The model was saved in"):
        return ValueError(f"{path}: {message}")
    if missing := re.search(r"Could not locate (class|function) '([^']+)'", message):
        kind, name = missing.groups()
        if f"'registered_name': 'aef_tfp>{name}'" in message:
            return ValueError(
                f"{path} needs the {kind} {name} of another version of aef_tfp: "
                "install the one that wrote it."
            )
        return ValueError(
            f"{path} needs your {kind} {name}, which is not registered: import the "
            "module that decorates it with "
            "keras.saving.register_keras_serializable(), or pass "
            f"custom_objects={{'{name}': {name}}} to aef_tfp.load."
        )
    if "deserialization of a" in message and "lambda" in message.lower():
        return ValueError(
            f"{path} holds a lambda, which is code from a file and is not run: save "
            "the model with a class of your own in place of it."
        )
    return damaged_model(path, message)


def use_kept_scales(
    best: BestModel, run_dir: Path, num_samples: int | None = None
) -> None:
    """Gives a model the scales that an evaluation has kept for its weights, if any.

    Args:
        best: The model.
        run_dir: Directory of the run.
        num_samples: The number of importance samples that they have to be tuned for:
            what is best for one is not for many. None takes any.

    Raises:
        DamagedFile: If the file of the scales is damaged.
    """
    path = run_dir / _SCALES
    if not path.exists() or not best.model.estimates:
        return
    advice = "remove it, and the next evaluation tunes the scale again"
    kept = read_json(path, advice)
    try:
        if kept["sha256"] != best.digest:
            return  # Of weights that were the best before.
        if num_samples not in (None, kept.get("num_samples")):
            return
        for proposal, scale in kept["scales"].items():
            if proposal not in best.model.proposal_scales:
                best.model.set_proposal_scale(proposal, scale)
    except (KeyError, TypeError, AttributeError, ValueError):
        raise DamagedFile(path, "holds no scales of proposals", advice) from None


def keep_scales(best: BestModel, run_dir: Path, num_samples: int) -> None:
    """Keeps the scales of a model for the next evaluation of the same weights.

    Args:
        best: The model.
        run_dir: Directory of the run.
        num_samples: What they were tuned for.

    Raises:
        CannotWrite: If the file cannot be written.
    """
    kept = {
        "sha256": best.digest,
        "num_samples": num_samples,
        "scales": best.model.proposal_scales,
    }
    replace_text(run_dir / _SCALES, json.dumps(kept, indent=2) + "\n")
