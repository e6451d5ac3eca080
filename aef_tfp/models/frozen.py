"""Which layers of a model are frozen, as a configuration that files keep."""

from collections.abc import Sequence

import keras

__all__ = ["freeze", "frozen_layers"]


def frozen_layers(model: keras.Model) -> list[int]:
    """Returns the places of the layers that are not trainable.

    Keras keeps that in the configuration of each layer, but not for the layers that a
    model makes in its constructor, such as heads, or a weight of the model's own.

    Args:
        model: Its layers count from itself on, outer ones before inner ones.
    """
    layers = model._flatten_layers()
    return [place for place, layer in enumerate(layers) if not layer.trainable]


def freeze(model: keras.Model, places: Sequence[int]) -> None:
    """Freezes the layers in these places, and no others; see `frozen_layers`."""
    if not places:
        return
    frozen = set(places)
    # Outer ones first: each passes its own on to those within.
    for place, layer in enumerate(list(model._flatten_layers())):
        layer.trainable = place not in frozen
