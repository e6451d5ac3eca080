"""Whether the layers of a model are in training, and how it reaches each of them."""

from contextlib import AbstractContextManager
from typing import Any

import keras
import tensorflow as tf

from aef_tfp.networks.switch import Switch

__all__ = ["call_network", "in_training", "training_mode"]

_IS_ON = Switch("training_mode")


def training_mode(is_on: bool = True) -> AbstractContextManager[None]:
    """Within it, networks are called with `training=True`: as in Keras's own step.

    Args:
        is_on: Whether they are.
    """
    return _IS_ON.set(is_on)


def in_training() -> bool:
    """Returns whether `training_mode` is on here."""
    return bool(_IS_ON)


class _Mark(keras.layers.Layer):
    """Does nothing, but that Keras notes the `training` argument of the call."""

    def call(self, x):
        return x


def call_network(network: keras.layers.Layer, x: Any) -> Any:
    """Calls a network in the present mode, and leaves that mode to what comes next.

    Keras passes `training` on from layer to layer as they are called. A network that
    calls a part of its own with `training=False`, like a backbone at rest, would put
    all layers that follow in the chain to rest, too.

    Args:
        network: Any Keras layer or model.
        x: Its input.
    """
    outputs = network(x, training=in_training())
    _Mark(name="mode", dtype="float32", autocast=False)(
        tf.zeros([]), training=in_training()
    )
    return outputs
