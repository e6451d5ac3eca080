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
        size = int(tf.size(x))
        parts.append(tf.reshape(vector[start : start + size], x.shape))
        start += size
    return tf.nest.pack_sequence_as(like, parts)


def log_det_by_autodiff(function, x):
    """Log |det| of the full Jacobian of `function` at one example `x`."""
    vector = flat(x)
    with tf.GradientTape() as tape:
        tape.watch(vector)
        y = flat(function(unflat(vector, x)))
    jacobian = tape.jacobian(y, vector).numpy()
    assert jacobian.shape[0] == jacobian.shape[1]
    return np.linalg.slogdet(jacobian)[1]


def perturb(layer, rng, scale=0.3):
    """Moves all weights of a layer away from their special starting values."""
    for weight in layer.trainable_weights:
        weight.assign(weight + scale * rng.normal(size=weight.shape))
    return layer
