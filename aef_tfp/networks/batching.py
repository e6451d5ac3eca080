"""How Keras layers meet tensors with any number of batch axes."""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

__all__ = ["density_dtype", "with_flat_batch"]


def density_dtype(policy: Any = None) -> str:
    """Returns the dtype of log-densities under a Keras policy, or the present one.

    Under `mixed_bfloat16` that is float32: a log-density over thousands of dimensions
    loses several nats in half precision.
    """
    policy = keras.dtype_policies.get(policy) or keras.config.dtype_policy()
    return policy.variable_dtype


def with_flat_batch(function: Callable[[Any], Any], x: Any, event_ndims: int) -> Any:
    """Calls `function` with exactly one batch axis, and gives the others back.

    TFP calls networks with event-only tensors when it infers shapes, and with several
    batch axes in importance sampling; Keras layers want one batch axis.

    Args:
        function: Maps `[n, *event]` to a tensor, or a structure of tensors, `[n, ...]`.
        x: `[*batch, *event]` with any number of batch axes, none included.
        event_ndims: Number of event axes of `x`.

    Returns:
        The outputs with `*batch` in place of `n`.
    """
    x = tf.convert_to_tensor(x)
    if x.shape.rank == event_ndims + 1:
        return function(x)
    split = x.shape.rank - event_ndims
    batch_shape, event_shape = tf.shape(x)[:split], tf.shape(x)[split:]
    static_batch = x.shape[:split]
    flat = tf.reshape(x, tf.concat([[-1], event_shape], axis=0))
    flat.set_shape([None, *x.shape[split:]])

    def restore(y):
        y_full = tf.reshape(y, tf.concat([batch_shape, tf.shape(y)[1:]], axis=0))
        y_full.set_shape(static_batch.concatenate(y.shape[1:]))
        return y_full

    return tf.nest.map_structure(restore, function(flat))
