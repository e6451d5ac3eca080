"""Features of images: what a feature model is, and how to run a set through it."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import keras
import numpy as np

from aef_tfp.engine.arguments import checked_count
from aef_tfp.metrics.checks import checked_features, checked_images

__all__ = ["FeatureModel", "cache_dir", "extract_features", "feature_model_name"]


class FeatureModel(Protocol):
    """What maps images to features: a Keras model, or any callable.

    It is called with a batch `[b, H, W, C]` of float32 images in [0, 1] (C as in the
    data: a network for colour repeats a grey channel itself) and returns `[b, k]`
    numbers, each row a function of its image alone.

    Attributes:
        name: A few words that say which features a number is made of, precise enough
            that two numbers under one name can be compared.
    """

    name: str

    def __call__(self, images: Any, /) -> Any:
        """Returns the features `[b, k]` of a batch of images."""


def feature_model_name(feature_model: Callable[[Any], Any]) -> str:
    """The `name` of a feature model, or else that of its function or class.

    Example:
        >>> feature_model_name(keras.Sequential(name="encoder"))
        'encoder'
    """
    for attribute in ("name", "__name__"):
        name = getattr(feature_model, attribute, None)
        if isinstance(name, str) and name:
            return name
    return type(feature_model).__name__


def extract_features(
    feature_model: Callable[[Any], Any],
    images: Any,
    batch_size: int = 100,
    progress: Callable[[int], Any] | None = None,
) -> np.ndarray:
    """Runs a set of images through a feature model, batch by batch.

    All batches have the same size, so that a compiled function is traced once: the
    last one is filled with copies of the last image, whose features are dropped.

    Example:
        >>> images = np.zeros([3, 8, 8, 1])
        >>> extract_features(keras.layers.Flatten(), images).shape
        (3, 64)

    Args:
        feature_model: See `FeatureModel`; a Keras model is called with
            `training=False`. Axes of length 1 between the first and the last are
            dropped, as global pooling may leave them.
        images: `[n, H, W, C]` floats in [0, 1], n at least 2.
        batch_size: Images per call, at least 1; smaller sets are one batch.
        progress: Called after each batch with the number of images done.

    Returns:
        `[n, k]` float64.

    Raises:
        ValueError: If the images or the features have another shape, are not finite or
            out of range.
    """
    images = checked_images("images", images)
    size = min(checked_count("batch_size", batch_size), len(images))
    parts = []
    for start in range(0, len(images), size):
        parts.append(features_of(feature_model, images[start : start + size], size))
        if progress is not None:
            progress(min(start + size, len(images)))
    name = f"the features of {feature_model_name(feature_model)!r}"
    return checked_features(name, np.concatenate(parts))


def features_of(
    feature_model: Callable[[Any], Any], batch: np.ndarray, size: int
) -> np.ndarray:
    """Runs one batch through a feature model, filled up to a size.

    Args:
        feature_model: As in `extract_features`.
        batch: `[b, H, W, C]` floats in [0, 1], b from 1 to `size`.
        size: Images per call.

    Returns:
        `[b, k]` float64.
    """
    options = {"training": False} if isinstance(feature_model, keras.Model) else {}
    batch = batch.astype(np.float32, copy=False)
    filling = batch[-1:].repeat(size - len(batch), axis=0)
    values = feature_model(np.concatenate([batch, filling]), **options)
    return _rows(feature_model, values, size)[: len(batch)]


def cache_dir() -> Path:
    """The folder of downloaded graphs and trained classifiers.

    It is `aef_tfp` in Keras's folder: the environment variable `KERAS_HOME`, or else
    `~/.keras`.
    """
    home = os.environ.get("KERAS_HOME") or "~/.keras"
    return Path(home).expanduser() / "aef_tfp"


def _rows(feature_model: Callable[[Any], Any], values: Any, size: int) -> np.ndarray:
    name = feature_model_name(feature_model)
    if isinstance(values, (list, tuple, dict)):
        raise ValueError(
            f"feature model {name!r} must return one array [{size}, k], got a "
            f"{type(values).__name__} of {len(values)}; pass a model of one output."
        )
    values = np.asarray(values, np.float64)
    shape = values.shape
    if len(shape) < 2 or shape[0] != size or any(n != 1 for n in shape[1:-1]):
        raise ValueError(
            f"feature model {name!r} must return [{size}, k] for {size} images, got "
            f"{list(shape)}; pool or flatten its output to one vector per image."
        )
    return values.reshape(size, shape[-1])
