"""Weights of one layer for another one of its kind, and what layers make of them."""

from collections.abc import Sequence
from typing import Any

import keras

__all__ = ["give_weights", "normalizations"]


def give_weights(layer: keras.layers.Layer, values: Sequence[Any]) -> None:
    """Sets all weights of a layer, as if it had been loaded with them.

    Keras's `set_weights` alone leaves a `Normalization` with the mean and the variance
    that it has made of its former weights.

    Args:
        layer: Any layer or model.
        values: What `get_weights` of another one of its kind returns.
    """
    layer.set_weights(values)
    for part in normalizations(layer):
        part.finalize_state()


def normalizations(layer: keras.layers.Layer) -> list[keras.layers.Normalization]:
    """Returns the layers whose mean and variance are no weights, but made of them.

    A graph holds them as constants.
    """
    kind = keras.layers.Normalization
    return [part for part in layer._flatten_layers() if isinstance(part, kind)]
