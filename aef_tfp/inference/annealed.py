"""Annealed importance sampling: a path of densities, and Hamiltonian steps along it.

Two functions define the path, log p(z) and log p(y | z). Nothing here knows a model.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from aef_tfp.engine.arguments import checked_count
from aef_tfp.engine.noise import fold_seed, normal_noise, uniform_noise

__all__ = [
    "Annealed",
    "Density",
    "Point",
    "annealed_log_weights",
    "hamiltonian_step",
    "leapfrog",
    "sigmoidal_schedule",
    "tuned_step_sizes",
]

Density = Callable[[tf.Tensor], tf.Tensor]
"""Maps z `[*batch, d]` to nats `[*batch]`."""

# Wu et al. take the logistic function from -4 to 4.
_STEEPNESS = 4.0

# The mean acceptance that costs Hamiltonian steps the least (Neal 2011).
_ACCEPTANCE = 0.65

# A standard normal, where paths begin, takes this step with nearly no rejection.
_FIRST_STEP_SIZE = 0.5

# Of the logarithm of a step size, per unit of acceptance too much.
_GAIN = 0.1


def sigmoidal_schedule(num_steps: int) -> tf.Tensor:
    """Returns the powers beta of the likelihood along a path, from 0 to 1.

        beta_t = (s(t) - s(0)) / (s(T) - s(0)),   s(t) = sigmoid(4 (2 t / T - 1))

    Steps are short at both ends, where a density changes most.

    Args:
        num_steps: T, at least 1.

    Returns:
        `[T + 1]`, ascending, float64.

    Raises:
        ValueError: If `num_steps` is no integer of at least 1.

    Example:
        >>> sigmoidal_schedule(2).numpy()
        array([0. , 0.5, 1. ])

    Reference: Wu et al. (arXiv:1611.04273), section 4.1.
    """
    num_steps = checked_count("num_steps", num_steps)
    raw = tf.sigmoid(
        tf.linspace(tf.constant(-_STEEPNESS, tf.float64), _STEEPNESS, num_steps + 1)
    )
    betas = (raw - raw[0]) / (raw[-1] - raw[0])
    # Rounding must not leave a rest of the way out.
    return tf.concat([betas[:-1], tf.ones([1], tf.float64)], axis=0)


class Annealed(NamedTuple):
    """What a path leaves behind, for each chain.

    Args:
        log_weights: Logarithms of the weights, `[*batch]`, float64.
        state: Where the chains ended, `[*batch, d]`.
        acceptance: Mean probability of acceptance over all steps, `[*batch]`.
    """

    log_weights: tf.Tensor
    state: tf.Tensor
    acceptance: tf.Tensor


class Point(NamedTuple):
    """A place, and what the two densities are there.

    Args:
        state: z, `[*batch, d]`.
        log_prior: log p(z), nats, `[*batch]`.
        log_likelihood: log p(y | z), likewise.
        gradient: Of log p(z) + beta log p(y | z), `[*batch, d]`.
    """

    state: tf.Tensor
    log_prior: tf.Tensor
    log_likelihood: tf.Tensor
    gradient: tf.Tensor

    @classmethod
    def of(
        cls, log_prior: Density, log_likelihood: Density, state: Any, beta: Any
    ) -> "Point":
        """Evaluates both densities, and the gradient at one beta."""
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(state)
            prior, likelihood = log_prior(state), log_likelihood(state)
            density = prior + beta * likelihood
        gradient = tape.gradient(density, state)
        # What cannot be computed has no weight: NaN would be the weight of all chains.
        finite = tf.math.is_finite(likelihood)
        likelihood = tf.where(finite, likelihood, likelihood.dtype.min)
        return cls(state, prior, likelihood, gradient)

    def log_density(self, beta: tf.Tensor) -> tf.Tensor:
        """Log p(z) + beta log p(y | z), nats, `[*batch]`."""
        return self.log_prior + beta * self.log_likelihood

    def like(self, other: "Point") -> "Point":
        """Itself, with the static shapes of another, which a loop asks for."""
        return Point(
            *(tf.ensure_shape(a, b.shape) for a, b in zip(self, other, strict=True))
        )


def leapfrog(
    log_prior: Density,
    log_likelihood: Density,
    start: Point,
    momentum: tf.Tensor,
    beta: tf.Tensor,
    step_size: tf.Tensor,
    num_leapfrog_steps: tf.Tensor,
) -> tuple[Point, tf.Tensor]:
    """Moves along the dynamics of H = -log p(z) - beta log p(y | z) + |m|^2 / 2.

    It keeps volume, and from its end with the momentum turned round it leads back.

    Args:
        log_prior: Maps z `[*batch, d]` to nats `[*batch]`.
        log_likelihood: Likewise.
        start: Where it begins.
        momentum: m, `[*batch, d]`.
        beta: Scalar in [0, 1].
        step_size: `[*batch]`, or what broadcasts to it.
        num_leapfrog_steps: Scalar, at least 1.

    Returns:
        The end, and the momentum there.
    """
    size = step_size[..., None]

    def move(i, point, momentum):
        momentum = momentum + 0.5 * size * point.gradient
        state = point.state + size * momentum
        new = Point.of(log_prior, log_likelihood, state, beta).like(point)
        return i + 1, new, momentum + 0.5 * size * new.gradient

    _, point, momentum = tf.while_loop(
        lambda i, *_: i < num_leapfrog_steps,
        move,
        (tf.constant(0), start, momentum),
        # Nothing runs at once, and what is kept of a step ends with it.
        parallel_iterations=1,
    )
    return point, momentum


def hamiltonian_step(
    log_prior: Density,
    log_likelihood: Density,
    start: Point,
    beta: tf.Tensor,
    step_size: tf.Tensor,
    num_leapfrog_steps: tf.Tensor,
    seed: tf.Tensor,
) -> tuple[Point, tf.Tensor]:
    """One step that leaves p(z) p(y | z)^beta invariant, and is reversible.

    A fresh momentum, a fixed number of leapfrog steps, and a Metropolis decision:
    the end is accepted with probability min(1, exp(H(start) - H(end))).

    Args:
        log_prior: As in `leapfrog`, like all but the last.
        log_likelihood: Maps z to nats.
        start: Where it begins.
        beta: Scalar in [0, 1], that of the gradient of `start`.
        step_size: `[*batch]`, or what broadcasts to it.
        num_leapfrog_steps: Scalar, at least 1.
        seed: Stateless seed, `[2]`, or `[3]` of `noise.starting_at`.

    Returns:
        The new place, and the probability of acceptance, `[*batch]`.
    """
    shape = tf.shape(start.state)
    momentum = normal_noise(shape, fold_seed(seed, 0), start.state.dtype)
    end, last = leapfrog(
        log_prior,
        log_likelihood,
        start,
        momentum,
        beta,
        step_size,
        num_leapfrog_steps,
    )
    kinetic = 0.5 * tf.reduce_sum(momentum**2 - last**2, axis=-1)
    log_ratio = end.log_density(beta) - start.log_density(beta) + kinetic
    # Where something is NaN or infinite, no chain goes.
    finite = tf.math.is_finite(log_ratio)
    finite &= tf.reduce_all(tf.math.is_finite(end.gradient), axis=-1)
    probability = tf.where(finite, tf.exp(tf.minimum(log_ratio, 0.0)), 0.0)
    uniform = uniform_noise(shape[:-1], fold_seed(seed, 1), probability.dtype)
    accepted = uniform < probability
    new = Point(
        tf.where(accepted[..., None], end.state, start.state),
        tf.where(accepted, end.log_prior, start.log_prior),
        tf.where(accepted, end.log_likelihood, start.log_likelihood),
        tf.where(accepted[..., None], end.gradient, start.gradient),
    )
    return new, probability


def annealed_log_weights(
    log_prior: Density,
    log_likelihood: Density,
    start: tf.Tensor,
    betas: tf.Tensor,
    step_sizes: tf.Tensor,
    num_leapfrog_steps: tf.Tensor,
    seed: tf.Tensor,
) -> Annealed:
    """Weights of chains along the densities p(z) p(y | z)^beta.

        log w = sum_t (beta_t - beta_(t-1)) log p(y | z_(t-1)),   z_t ~ T_t(z_(t-1))

    with a step T_t that leaves p(z) p(y | z)^beta_t invariant. With ascending betas and
    a start z_0 ~ p(z), E w = p(y): the logarithm of a mean of weights is on average a
    lower bound of log p(y). With the same betas descending, and a start from
    the posterior p(z | y), E w = 1 / p(y): minus that logarithm is an upper bound. Both
    hold if betas and step sizes do not depend on the chains.

    Args:
        log_prior: Maps z `[*batch, d]` to nats `[*batch]`.
        log_likelihood: Likewise.
        start: `[*batch, d]`.
        betas: From 0 to 1 or from 1 to 0, `[T + 1]`.
        step_sizes: Of the leapfrog steps at each beta, `[T + 1, *batch]` or what
            broadcasts to it; the first one is not used.
        num_leapfrog_steps: Per step, scalar, at least 1.
        seed: Stateless seed, `[2]`, or `[3]` of `noise.starting_at`.

    References: Neal (2001), "Annealed importance sampling"; Grosse, Ghahramani and
    Adams (arXiv:1511.02543).
    """
    return _anneal(
        log_prior, log_likelihood, start, betas, step_sizes, num_leapfrog_steps, seed
    )[0]


def tuned_step_sizes(
    log_prior: Density,
    log_likelihood: Density,
    start: tf.Tensor,
    betas: tf.Tensor,
    num_leapfrog_steps: tf.Tensor,
    seed: tf.Tensor,
) -> tf.Tensor:
    """Step sizes for each beta and event, from a path whose weights nobody uses.

    Along it, the step size of an event follows the mean acceptance of its chains, up
    above 0.65 and down below. A path with steps that depend on its own past is not
    exact, one with the sizes of another path is.

    Args:
        log_prior: As in `annealed_log_weights`, like all others.
        log_likelihood: Maps z to nats.
        start: `[batch, chains, d]`, from p(z).
        betas: From 0 to 1, `[T + 1]`.
        num_leapfrog_steps: Per step, scalar.
        seed: Of other noise than that of the path to come.

    Returns:
        `[T + 1, batch, 1]`.
    """
    return _anneal(
        log_prior, log_likelihood, start, betas, None, num_leapfrog_steps, seed
    )[1]


def _anneal(log_prior, log_likelihood, start, betas, step_sizes, num_leapfrog, seed):
    """`annealed_log_weights` and the step sizes; None tunes them on the way.

    `tfp.mcmc.sample_annealed_importance_chain` would do but for its kernels, which
    decide with the density of the state at the last beta in place of the present one,
    and so leave nothing invariant. Its betas are equally spaced, and its noise
    is no function of an event's place.
    """
    dtype = start.dtype
    betas = tf.cast(betas, tf.float64)
    batch = tf.shape(start)[:-1]
    tuning = step_sizes is None
    if tuning:
        shape = tf.concat([tf.shape(betas), batch[:1], [1]], axis=0)
        step_sizes = tf.fill(shape, tf.constant(_FIRST_STEP_SIZE, dtype))
    static = start.shape[:-1]
    places = tf.range(tf.shape(betas)[0])[:, None, None]

    def step(t, state, log_weights, acceptance, sizes):
        beta = tf.cast(betas[t], dtype)
        point = Point.of(log_prior, log_likelihood, state, beta)
        change = betas[t] - betas[t - 1]
        log_weights += change * tf.cast(point.log_likelihood, betas.dtype)
        size = sizes[t - 1] if tuning else sizes[t]
        new, probability = hamiltonian_step(
            log_prior,
            log_likelihood,
            point,
            beta,
            size,
            num_leapfrog,
            fold_seed(seed, t),
        )
        if tuning:
            excess = tf.reduce_mean(probability, axis=-1, keepdims=True) - _ACCEPTANCE
            size = size * tf.exp(_GAIN * excess)
            # TensorFlow's own update refuses to update nothing, where no events are.
            sizes = tf.where(places == t, size, sizes)
        return (
            t + 1,
            tf.ensure_shape(new.state, start.shape),
            tf.ensure_shape(log_weights, static),
            tf.ensure_shape(acceptance + probability, static),
            sizes,
        )

    num_steps = tf.shape(betas)[0] - 1
    _, state, log_weights, acceptance, step_sizes = tf.while_loop(
        lambda t, *_: t <= num_steps,
        step,
        (
            tf.constant(1),
            start,
            tf.zeros(batch, betas.dtype),
            tf.zeros(batch, dtype),
            step_sizes,
        ),
        parallel_iterations=1,
    )
    acceptance /= tf.cast(num_steps, dtype)
    return Annealed(log_weights, state, acceptance), step_sizes
