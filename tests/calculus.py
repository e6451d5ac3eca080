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


def assert_bijective_and_finite(bijector, x, y, event_ndims, rtol=1e-9, atol=1e-9):
    """Both directions undo each other, with opposite log-determinants, all finite.

    What TFP's `bijector_test_util.assert_bijective_and_finite` checks, with copies
    between the directions: TFP's cache would answer with the value that it came from.

    Args:
        bijector: Any bijector.
        x: Points on the base's side, `[batch, *event]` each part.
        y: Points on the data's side.
        event_ndims: Number of event axes of each part of `x`.
    """
    forward = (bijector.forward, bijector.forward_log_det_jacobian, event_ndims)
    inverse = (
        bijector.inverse,
        bijector.inverse_log_det_jacobian,
        bijector.forward_event_ndims(event_ndims),
    )
    for name, points, ways in (
        ("forward", x, (forward, inverse)),
        ("inverse", y, (inverse, forward)),
    ):
        (there, log_det, ndims), (back, log_det_back, ndims_back) = ways
        values = there(fresh(points))
        again = back(fresh(values))
        one = log_det(fresh(points), ndims)
        other = log_det_back(fresh(values), ndims_back)
        for part in (*tf.nest.flatten([values, again]), one, other):
            assert np.isfinite(part).all(), f"{name} is not finite"
        for got, expected in zip(
            tf.nest.flatten(again), tf.nest.flatten(points), strict=True
        ):
            np.testing.assert_allclose(
                got, expected, rtol=rtol, atol=atol, err_msg=f"{name} and back"
            )
        np.testing.assert_allclose(
            one + tf.zeros_like(other),
            -other + tf.zeros_like(one),
            rtol=rtol,
            atol=atol,
            err_msg=f"log-determinants of {name} and back",
        )


def assert_scalar_congruency(bijector, lower, upper, event_ndims=0, num_points=4001):
    """A bijector of one number is monotone, and its log-determinants are its slopes.

    What TFP's `bijector_test_util.assert_scalar_congruency` checks, on a grid in place
    of random points:

        exp(forward log-det at x) = |dy/dx|, by finite differences
        integral of exp(inverse log-det at y) dy = upper - lower

    Args:
        bijector: Bijector of events `[1, ..., 1]`.
        lower: Where the grid on the base's side begins.
        upper: Where it ends.
        event_ndims: Number of event axes.
        num_points: Points of the grid.
    """
    shape = [num_points] + [1] * event_ndims
    x = tf.constant(np.linspace(lower, upper, num_points).reshape(shape))
    y = bijector.forward(x)
    steps = np.diff(np.ravel(y))
    assert (steps > 0).all() or (steps < 0).all(), "not monotone"

    width = 1e-6
    ends = [np.ravel(bijector.forward(x + sign * width)) for sign in (1, -1)]
    slopes = np.abs(ends[0] - ends[1]) / (2 * width)
    log_slopes = bijector.forward_log_det_jacobian(fresh(x), event_ndims)
    log_slopes = np.broadcast_to(np.ravel(log_slopes), slopes.shape)
    # Points where the slope jumps may lie between the two ends.
    wrong = ~np.isclose(np.exp(log_slopes), slopes, rtol=1e-4, atol=1e-9)
    assert wrong.mean() < 0.01, "the forward log-determinant is not the slope"

    densities = np.exp(bijector.inverse_log_det_jacobian(fresh(y), event_ndims))
    densities = np.broadcast_to(np.ravel(densities), slopes.shape)
    total = np.sum(0.5 * (densities[1:] + densities[:-1]) * np.abs(steps))
    np.testing.assert_allclose(
        total, upper - lower, rtol=1e-3, err_msg="the inverse density's integral"
    )
