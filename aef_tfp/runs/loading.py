"""A model from where it lies: a run directory, or a `.keras` file."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras

# A class is registered when its module is imported. A file may hold a network or a flow
# alone, too.
from aef_tfp import flows, models, networks  # noqa: F401
from aef_tfp.runs.best import load_best, loading_error
from aef_tfp.saved import read_label, snapshot

__all__ = ["load"]

_WHAT = "name a run directory or a .keras file"


def load(
    path: str | os.PathLike[str], custom_objects: Mapping[str, Any] | None = None
) -> Any:
    """Loads the model of a run directory or of a `.keras` file.

    The classes of this package need no import before. Your own, such as the layers of
    an encoder, must be known: import the module that decorates them with
    `keras.saving.register_keras_serializable()`, or pass them in `custom_objects`.
    Keras's safe mode stays on: no code is loaded from the file, so no Lambda layer
    either.

    Args:
        path: A run directory, whose best model is loaded, with the scales of proposals
            that evaluations have tuned for it; or a `.keras` file that `model.save`
            wrote, of this package's models or any other Keras model.
        custom_objects: Classes and functions of yours by their names, for those that
            are not registered.

    Returns:
        The Keras model, compiled as it was, its optimizer's state included.

    Raises:
        FileNotFoundError: If nothing is there, or the run has no best model yet.
        DamagedFile: If a file is not what was written; a ValueError.
        ValueError: If it is no such file or directory, if another version of this
            package wrote it, or if a class is missing; the message names it.

    Example:
        >>> import aef_tfp
        >>> model = aef_tfp.load("runs/digits-aef-center-8-20260101-120000")
        >>> model.sample(16, seed=0).shape
        TensorShape([16, 8, 8, 1])
        >>> model.save("digits.keras")
        >>> same = aef_tfp.load("digits.keras")
    """
    place = Path(path).expanduser()
    if not place.exists():
        raise FileNotFoundError(f"{place} is not there; {_WHAT}.")
    with keras.saving.custom_object_scope(dict(custom_objects or {})):
        if not place.is_dir():
            return _load_file(place)
        if (place / "config.json").is_file():
            return load_best(place)
        if (place / "best.keras").is_file():
            # What `callbacks.Checkpoints` leaves of a training that is no run.
            return _load_file(place / "best.keras")
    if (place / "saved_model.pb").is_file():
        raise ValueError(
            f"{place} is a SavedModel: it holds endpoints, not the model that they "
            f"were made of; take tf.saved_model.load for them, or {_WHAT}."
        )
    raise ValueError(
        f"{place} holds no run: it has neither config.json nor best.keras; {_WHAT}."
    )


def _load_file(path: Path) -> Any:
    if path.suffix != ".keras":
        raise ValueError(f"{path} is {_kind(path)}; {_WHAT}.")
    # A training may write another one while this is read.
    with snapshot(path) as copy:
        read_label(copy, path)
        try:
            return keras.saving.load_model(copy)
        except Exception as error:
            # Keras and HDF5 have errors of many kinds; the checksums were right.
            raise loading_error(path, error) from error


def _kind(path: Path) -> str:
    if path.name.endswith(".weights.h5"):
        return "a file of weights without their model; build that, and load_weights"
    if path.suffix in (".h5", ".hdf5"):
        return (
            "an HDF5 file, the former format of Keras, without models of this package: "
            "have model.save write a .keras file"
        )
    if path.suffix == ".tflite":
        return (
            "a LiteRT file, which holds an endpoint, not the model; take an interpreter"
        )
    return "no .keras file"
