"""The Laplace approximation of a posterior over latents."""

from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from aef_tfp.engine.tracing import traced

__all__ = ["Laplace", "forward_jacobian", "laplace_approximation"]

# A Newton step that gains an event less than this many nats is its last one, whatever
# others gain: which events are fitted together changes nothing.
_TOLERANCE = 1e-2

# Fractions of a Newton step that are tried at once; the best one is taken.
_STEP_SIZES = (1.0, 0.5, 0.25, 0.1, 0.03, 0.01)


class Laplace(NamedTuple):
    """A Gaussian N(mode, P^-1) for each event.

    Attributes:
        mode: `[batch, d]`.
        factor: A with A A' = P^-1, `[batch, d, d]`.
        log_det: log |det A|, `[batch]`.
    """

    mode: tf.Tensor
    factor: tf.Tensor
    log_det: tf.Tensor


def laplace_approximation(
    log_density: Callable[[tf.Tensor], tf.Tensor],
    residuals: Callable[[tf.Tensor], tf.Tensor],
    start: tf.Tensor,
    num_steps: int = 8,
) -> Laplace:
    """Fits a Gaussian at the mode of a density, by damped Gauss-Newton steps.

    The precision is P = J' J with J the Jacobian of the residuals r(z), of which
    -log_density is 0.5 |r(z)|^2 up to terms of small curvature. It is positive
    definite, so every step z + t P^-1 grad log_density with a small enough t ascends;
    of a few t, the best is taken for each event, or none.

    Args:
        log_density: Maps z `[..., batch, d]` to nats `[..., batch]`.
        residuals: Maps z `[batch, d]` to `[batch, n]`.
        start: `[batch, d]`.
        num_steps: Newton steps at most; those of an event end with one that gains less
            than 0.01 nats.
    """
    start = tf.convert_to_tensor(start)
    shape = start.shape

    # A function of its own is traced once for both places that call it.
    @traced
    def precision_tril(z):
        return _precision_tril(residuals, z)

    def newton_step(i, z, value, former_gain):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(z)
            density = log_density(z)
        gradient = tape.gradient(density, z)
        tril = precision_tril(z)
        step = tf.linalg.cholesky_solve(tril, gradient[..., None])[..., 0]
        sizes = tf.constant(_STEP_SIZES, z.dtype)[:, None, None]
        candidates = tf.concat([z[None], z[None] + sizes * step], axis=0)
        values = log_density(candidates[1:])
        # The present place stands first: it wins where no other is better, also where
        # it has no density itself, and others are NaN.
        values = tf.concat([value[None], _finite_or_lowest(values)], axis=0)
        best = tf.argmax(values, axis=0)
        new_z = tf.gather(tf.transpose(candidates, [1, 0, 2]), best, batch_dims=1)
        moves = former_gain > _TOLERANCE
        new_z = tf.where(moves[:, None], new_z, z)
        new_value = tf.where(moves, tf.reduce_max(values, axis=0), value)
        gain = new_value - value
        return i + 1, tf.ensure_shape(new_z, shape), new_value, gain

    first = _finite_or_lowest(log_density(start))
    _, mode, _, _ = tf.while_loop(
        lambda i, z, value, gain: (i < num_steps) & tf.reduce_any(gain > _TOLERANCE),
        newton_step,
        (tf.constant(0), start, first, tf.zeros_like(first) + float("inf")),
    )
    tril = precision_tril(mode)
    identity = tf.eye(tf.shape(mode)[-1], dtype=mode.dtype)
    inverse = tf.linalg.triangular_solve(
        tril, tf.broadcast_to(identity, tf.shape(tril))
    )
    log_det = -tf.reduce_sum(tf.math.log(tf.linalg.diag_part(tril)), axis=-1)
    return Laplace(mode, tf.linalg.matrix_transpose(inverse), log_det)


def _finite_or_lowest(values: tf.Tensor) -> tf.Tensor:
    return tf.where(tf.math.is_finite(values), values, values.dtype.min)


def _precision_tril(residuals: Any, z: tf.Tensor) -> tf.Tensor:
    """Cholesky factor of J' J, `[batch, d, d]`."""
    # The product of a rounded J is still positive definite if it is formed in double
    # precision; formed in single precision, it is not where latents differ in scale.
    jacobian = tf.cast(forward_jacobian(residuals, z), tf.float64)
    precision = tf.linalg.matmul(jacobian, jacobian, transpose_a=True)
    identity = tf.eye(tf.shape(z)[-1], dtype=tf.float64)
    finite = tf.reduce_all(tf.math.is_finite(precision), axis=[-2, -1], keepdims=True)
    # TensorFlow stops at one matrix that has no factor. An event without a usable
    # Jacobian gets the prior's unit covariance, and a loose bound.
    precision = tf.where(finite, precision, identity)
    diagonal = tf.linalg.diag_part(precision)
    precision = tf.linalg.set_diag(precision, diagonal * (1.0 + 1e-10) + 1e-30)
    return tf.cast(tf.linalg.cholesky(precision), z.dtype)


def forward_jacobian(
    function: Callable[[tf.Tensor], tf.Tensor], z: tf.Tensor
) -> tf.Tensor:
    """Jacobian of a map from few to many entries, `[batch, n, d]`.

    One column per entry of z, all at once: J v is the derivative with respect to u of
    v . (J' u), so d passes instead of the n of backpropagation.

    Args:
        function: Maps `[batch, d]` to `[batch, n]`, each row for itself.
        z: `[batch, d]`.
    """
    with tf.GradientTape(watch_accessed_variables=False, persistent=True) as outer:
        with tf.GradientTape(watch_accessed_variables=False) as inner:
            inner.watch(z)
            values = function(z)
        u = tf.zeros_like(values)
        outer.watch(u)
        pulled_back = inner.gradient(values, z, output_gradients=u)

    def column(direction):
        directions = tf.broadcast_to(direction, tf.shape(z))
        return outer.gradient(pulled_back, u, output_gradients=directions)

    columns = tf.vectorized_map(column, tf.eye(tf.shape(z)[-1], dtype=z.dtype))
    return tf.transpose(columns, [1, 2, 0])
