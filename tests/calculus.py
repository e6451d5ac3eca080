"""Exact checks of a bijector against automatic differentiation."""

import numpy as np
import tensorflow as tf


def fresh(structure):
    """Copies tensors, so that no bijector cache recognizes them."""
    return tf.nest.map_structure(lambda x: tf.constant(x.numpy()), structure)


def flat(structure):
    """One example's parts as one vector."""
    return tf.concat([tf.reshape(x, [-1]) for x in tf.nest.flatten(structure)], axis=0)


def unflat(vector, like):
    parts, start = [], 0
    for x in tf.nest.flatten(like):
        size = x.shape.num_elements()
        parts.append(tf.reshape(vector[start : start + size], x.shape))
        start += size
    return tf.nest.pack_sequence_as(like, parts)


def with_log_det(function, as_graph=True):
    """Returns what maps an example to its value and log |det| of the full Jacobian.

    As a graph, made once for all examples of a shape; without one it takes less time
    where the function loops.
    """

    def with_jacobian(x):
        vector = flat(x)
        with tf.GradientTape() as tape:
            tape.watch(vector)
            value = function(unflat(vector, x))
            y = flat(value)
        return value, tape.jacobian(y, vector)

    if as_graph:
        with_jacobian = tf.function(with_jacobian, autograph=False)

    def both(x):
        value, jacobian = with_jacobian(x)
        assert jacobian.shape[0] == jacobian.shape[1]
        return value, np.linalg.slogdet(jacobian)[1]

    return both


def perturb(layer, rng, scale=0.3):
    """Moves all weights of a layer away from their special starting values."""
    for weight in layer.trainable_weights:
        weight.assign(weight + scale * rng.normal(size=weight.shape))
    return layer
