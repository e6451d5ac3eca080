"""Where a training step first gives a value that is not finite."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

__all__ = ["describe_non_finite"]


def describe_non_finite(loss: Callable[[], tf.Tensor], variables: Sequence[Any]) -> str:
    """Repeats a step outside of any compiled function, and watches every layer.

    Args:
        loss: Computes the scalar loss of the step, eagerly.
        variables: Keras variables that its gradient is taken for.

    Returns:
        Words that follow "the first value that was not finite is".
    """
    with _watched_layers() as found, tf.GradientTape() as tape:
        value = loss()
    if found:
        return found[0]
    if not _all_finite(value):
        return "the loss itself, after finite outputs of all layers"
    gradients = tape.gradient(value, variables)
    for variable, gradient in zip(variables, gradients, strict=True):
        if gradient is not None and not _all_finite(gradient):
            return f"the gradient of {variable.path!r}, after a finite loss"
    return "not in the next batch, whose loss and gradient are finite"


@contextlib.contextmanager
def _watched_layers() -> Iterator[list[str]]:
    """Collects descriptions of layers whose output is not finite, in their order.

    Layers within layers come first, so the first one names the innermost.
    """
    found: list[str] = []
    call = keras.layers.Layer.__call__

    def watched(layer, *args, **kwargs):
        finite_before = _all_finite((args, kwargs))
        outputs = call(layer, *args, **kwargs)
        if not finite_before:
            found.append(f"the input of layer {layer.path!r}")
        elif not _all_finite(outputs):
            found.append(f"the output of layer {layer.path!r}")
        return outputs

    # Layers are called by each other and by bijectors: all calls come through here.
    keras.layers.Layer.__call__ = watched
    try:
        yield found
    finally:
        keras.layers.Layer.__call__ = call


def _all_finite(values: Any) -> bool:
    tensors = [
        value
        for value in keras.tree.flatten(values)
        if tf.is_tensor(value) and value.dtype.is_floating
    ]
    return all(bool(tf.reduce_all(tf.math.is_finite(value))) for value in tensors)
