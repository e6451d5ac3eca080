"""Whether the layers of a model are in training, and how it reaches each of them."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import keras
import tensorflow as tf

from aef_tfp.networks.switch import Switch

__all__ = [
    "build_for_training",
    "call_network",
    "layers_in_mode",
    "run_in_mode",
    "training_mode",
]

_IS_ON = Switch("training_mode")


def training_mode(is_on: bool = True) -> AbstractContextManager[None]:
    """Within it, networks are called with `training=True`: as in Keras's own step.

    For a loop of your own; `fit` does the same within its step.

    Example:
        >>> with tf.GradientTape() as tape, training_mode():
        ...     loss = -tf.reduce_mean(model.objective(x, tf.constant([0, step])))

    Args:
        is_on: Whether they are.
    """
    return _IS_ON.set(is_on)


def run_in_mode(function: Callable[[], Any], training: bool) -> Any:
    """Calls a function whose layers, however they are called, are in a mode.

    Args:
        function: Calls layers and returns anything.
        training: The mode.
    """
    results: list[Any] = []
    entry = _Probe(lambda _: results.append(function()))
    with training_mode(training):
        entry(tf.zeros([]), training=training)
    return results[0]


class _Probe(keras.layers.Layer):
    """Tells what mode it is called in, by itself or by the layers around it."""

    def __init__(self, note: Callable[[Any], None]):
        super().__init__(name="mode", dtype="float32", autocast=False)
        self._note = note

    def call(self, x, training=None):
        self._note(training)
        return x


@contextlib.contextmanager
def layers_in_mode() -> Iterator[None]:
    """Within it, layers called without a mode are in the present one.

    Keras passes `training` on from layer to layer as they are called: a network that
    calls a part of its own with `training=False`, like a backbone at rest, would put
    all layers that follow in the chain to rest, too, and so would a method of a model
    that a larger model calls. Afterwards the mode is as before.
    """
    modes: list[Any] = []
    probe = _Probe(modes.append)
    nothing = tf.zeros([])
    probe(nothing)
    probe(nothing, training=bool(_IS_ON))
    try:
        yield
    finally:
        probe(nothing, training=modes[0])


def call_network(network: keras.layers.Layer, x: Any) -> Any:
    """Calls a network in the present mode, and leaves that mode to what comes next.

    Args:
        network: Any Keras layer or model.
        x: Its input.
    """
    with layers_in_mode():
        return network(x, training=bool(_IS_ON))


def build_for_training(network: keras.layers.Layer, input_shape: Sequence[int]) -> None:
    """Makes the weights of layers that a network calls in training alone.

    A step comes too late for them: the optimizer is built for all weights before.
    Layers of Keras have theirs once they were called at rest.

    Args:
        network: Keras layer or model that was called at rest.
        input_shape: Of one example.
    """
    if all(layer.built for layer in network._flatten_layers()):
        return
    # Nothing that the call draws, learns or adds is kept but new weights.
    with training_mode(), keras.StatelessScope():
        call_network(network, tf.zeros((1, *input_shape), network.variable_dtype))
