"""The referee of all estimates of log p(x): bounds from below and from above."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from aef_tfp.bijectors import decoder_coupling
from aef_tfp.engine.arguments import check_fits_memory, checked_count
from aef_tfp.engine.noise import (
    fold_seed,
    normal_noise,
    split_seed,
    standard_normal,
    starting_at,
    stateless_seed,
)
from aef_tfp.engine.tracing import traced
from aef_tfp.inference.annealed import (
    Annealed,
    Density,
    annealed_log_weights,
    sigmoidal_schedule,
    tuned_step_sizes,
)
from aef_tfp.inference.importance import (
    PROPOSALS,
    estimate_of_preprocessed,
    events_per_estimate,
)
from aef_tfp.networks.batching import joined, pass_sizes

__all__ = ["AnnealedEstimate", "Sandwich", "annealed_log_prob", "sandwich"]

# Chains that share noise of one seed, whatever the memory allows: how many events go
# through one pass changes no number.
_BLOCK = 16

# Chains per event that find the step sizes.
_TUNING_CHAINS = 4

# A gradient keeps about as many layers' outputs of which a density keeps the largest.
_KEPT_LAYERS = 8

# Draws of the prior that tell where it lies and how wide it is.
_PRIOR_DRAWS = 1024

# Of a normal distribution, between its quartiles.
_QUARTILES = 1.349

# Streams of noise under the seed of an estimate.
_TUNING, _FORWARD, _BACKWARD, _LATENTS, _DEVIATIONS, _PROPOSALS = range(6)


class AnnealedEstimate(NamedTuple):
    """A bound of log p(x) from annealed chains, for each event.

    Attributes:
        log_prob: Nats, `[batch]`: on average below log p(x) from chains that start at
            the prior, and above it from chains that start at the posterior.
        effective_sample_size: (sum w)^2 / sum w^2 of the chains' weights, `[batch]`,
            from 1 to `num_chains`.
        acceptance: Share of Hamiltonian steps that were accepted, `[batch]`.
    """

    log_prob: tf.Tensor
    effective_sample_size: tf.Tensor
    acceptance: tf.Tensor


@dataclasses.dataclass(frozen=True)
class Sandwich:
    """Estimates for simulated events, between two bounds.

    Args:
        events: x, `[num_events, *event_shape]`, as the model draws them.
        lower: From chains that start at the prior.
        upper: From chains that start at the latents which the event was made of.
        estimates: Importance sampling by proposal, nats, `[num_events]` each.
    """

    events: tf.Tensor
    lower: AnnealedEstimate
    upper: AnnealedEstimate
    estimates: dict[str, tf.Tensor]

    @property
    def gap(self) -> tf.Tensor:
        """Upper minus lower bound, nats, `[num_events]`.

        On average it is what both bounds together are away from log p(x); a single one
        may be negative by chance.
        """
        return self.upper.log_prob - self.lower.log_prob


def annealed_log_prob(
    model: Any,
    x: Any,
    *,
    num_chains: int = 16,
    num_steps: int = 1000,
    num_leapfrog_steps: int = 5,
    seed: int | tf.Tensor | None = None,
) -> AnnealedEstimate:
    """Estimates log p(x) by annealed importance sampling, which needs no proposal.

    Chains of latents go from the prior to the posterior along p(z) p(x | z)^beta, by
    Hamiltonian steps that leave each of these densities invariant:

        log p(x) ~ log mean_c w_c,
        log w_c = sum_t (beta_t - beta_(t-1)) log p(x | z_(c,t-1))

    On average it is a lower bound, which tightens with the number of steps, and of
    chains. It is what to hold against `importance_estimate`: whether that one's
    proposal covers the posterior is of no matter here. It takes T (L + 1) (C + 4)
    evaluations per event with a gradient, so it is for tens or hundreds of events.

    Step sizes are found for each event and beta by four chains of other noise, and
    fixed then. Latents are measured in quartiles of the prior. Memory is bounded
    whatever the number of events and chains; the networks see 16 chains of one event at
    least. Like the training step it is compiled with XLA where `model.jit_compile` says
    so; that changes last digits, and with them which steps are accepted.

    Args:
        model: An `ExpandedAEF`, `VAE` or `IWAE`.
        x: `[batch, *event_shape]`, as in `importance_estimate`; with the same seed,
            integers are dequantized by the same noise.
        num_chains: C, at least 1.
        num_steps: T, values of beta after 0, at least 1. Too few give a loose bound.
        num_leapfrog_steps: L of a Hamiltonian step, at least 1.
        seed: Of the dequantization and the chains; None draws a new one.

    Returns:
        Nats, effective sample sizes and acceptance, `[batch]` each.

    Raises:
        TypeError: If the model has no latents to integrate over.
        ValueError: If `x` does not fit the model, or a number is out of its range.

    Example:
        >>> estimate = annealed_log_prob(model, images[:50], seed=0)
        >>> laplace = model.marginal_log_prob(images[:50], proposal="laplace", seed=0)
        >>> tf.reduce_mean(laplace - estimate.log_prob)  # of about 0

    References: Neal (2001), "Annealed importance sampling", Statistics and Computing
    11; Wu, Burda, Salakhutdinov and Grosse (arXiv:1611.04273).
    """
    paths = _Paths(model, num_chains, num_steps, num_leapfrog_steps)
    x = model.events.checked(x, density=True)
    # As in `importance_estimate`.
    whole = starting_at(stateless_seed(seed), 0)
    first = whole[2]
    seeds = split_seed(whole[:2], 2)
    parts, start = [], 0
    for count in pass_sizes(len(x), paths.events_per_pass):
        y, log_det = model._preprocessed(
            x[start : start + count], starting_at(seeds[0], first + start)
        )
        y, place = model._flat(y), starting_at(seeds[1], first + start)
        sizes = paths.step_sizes(y, place)
        parts.append(paths.lower(y, sizes, log_det, place))
        start += count
    return joined(parts)


def sandwich(
    model: Any,
    num_events: int,
    *,
    proposals: Sequence[str] | str = PROPOSALS,
    num_samples: int = 128,
    num_chains: int = 16,
    num_steps: int = 1000,
    num_leapfrog_steps: int = 5,
    seed: int | tf.Tensor | None = None,
) -> Sandwich:
    """Holds estimates of log p(x) between two bounds, on events of the model itself.

    An event that was drawn as z ~ p(z), x ~ p(x | z) comes with an exact sample z of
    its posterior. Chains that start there and go back to the prior have weights of mean
    1 / p(x), so that

        E log mean_c w_c  <=  log p(x)  <=  -E log mean_c w'_c

    with w of `annealed_log_prob` and w' of the way back, same betas and step sizes. If
    the two meet, both are right, and an estimate in between is, too. What this says is
    about the model's own events; on data there is the lower bound alone.

    Args:
        model: An `ExpandedAEF`, `VAE` or `IWAE`.
        num_events: At least 1.
        proposals: Importance sampling to compare: `"encoder"`, `"laplace"`, a list of
            both, or an empty one.
        num_samples: K of each, at least 1.
        num_chains: As in `annealed_log_prob`, like all others.
        num_steps: T.
        num_leapfrog_steps: L.
        seed: Of the events and all noise; None draws a new one.

    Returns:
        The events, both bounds, and the estimates by proposal.

    Raises:
        TypeError: If the model has no latents to integrate over.
        ValueError: If a number is out of its range or a proposal unknown.

    Example:
        >>> result = sandwich(model, 50, seed=0)
        >>> low, high = (tf.reduce_mean(bound.log_prob)
        ...              for bound in (result.lower, result.upper))
        >>> low, tf.reduce_mean(result.estimates["laplace"]), high

    Reference: Grosse, Ghahramani and Adams (arXiv:1511.02543), "Sandwiching the
    marginal likelihood using bidirectional Monte Carlo".
    """
    paths = _Paths(model, num_chains, num_steps, num_leapfrog_steps)
    checked_count("num_events", num_events)
    checked_count("num_samples", num_samples)
    proposals = [proposals] if isinstance(proposals, str) else proposals
    for proposal in proposals:
        model.proposal_scale(proposal)  # refuses unknown ones
    whole, parts, start = stateless_seed(seed), [], 0
    for count in pass_sizes(num_events, paths.events_per_pass):
        place = starting_at(whole, start)
        z, y = _simulated.__get__(model)(tf.constant(count), place)
        x, log_det = _events_of(model, y)
        sizes = paths.step_sizes(y, place)
        lower = paths.lower(y, sizes, log_det, place)
        upper = paths.upper(y, z, sizes, log_det, place)
        estimates = {
            proposal: _importance(model, y, log_det, proposal, num_samples, place)
            for proposal in proposals
        }
        parts.append((x, lower, upper, estimates))
        start += count
    events, lower_parts, upper_parts, others = zip(*parts, strict=True)
    return Sandwich(
        joined(events), joined(lower_parts), joined(upper_parts), joined(others)
    )


class _Paths:
    """Chains of a model's latents, from prior to posterior and back.

    Latents are z = center + width * v with the median and the width of the prior, so
    that a step size means the same in all directions. In the coordinates of the base
    noise the prior would be standard normal; but a MAF goes from there to the latents
    one entry after the other, and a gradient keeps all of these steps. On the digits
    with d = 8, bounds of as many steps were no tighter there (a gap of 0.02 against
    0.03 nats for a VAE, 0.20 against 0.03 for an AEF) and took twice the time; a
    gradient with d = 32 and flows of the paper's size took six times as long.
    """

    def __init__(self, model, num_chains, num_steps, num_leapfrog_steps):
        if not getattr(model, "estimates", False):
            raise TypeError(
                "annealed importance sampling integrates over the latents of an "
                f"ExpandedAEF, VAE or IWAE, got {type(model).__name__}; a model with "
                "an exact log_prob needs no estimate."
            )
        self.model = model
        self.num_chains = checked_count("num_chains", num_chains)
        checked_count("num_steps", num_steps)
        checked_count("num_leapfrog_steps", num_leapfrog_steps)
        for name, number in (("num_chains", num_chains), ("num_steps", num_steps)):
            check_fits_memory(f"{name} of {number:,}", 16 * number, "take fewer")
        self.betas = sigmoidal_schedule(num_steps)
        self.num_leapfrog = tf.constant(num_leapfrog_steps, tf.int32)
        rows = max(1, model._latents_per_pass // _KEPT_LAYERS)
        self.events_per_pass = max(1, rows // min(self.num_chains, _BLOCK))
        draws = np.asarray(self._draws(_PRIOR_DRAWS, 1, tf.zeros([2], tf.int32)))
        low, center, high = np.percentile(draws, [25, 50, 75], axis=(0, 1))
        tiny = np.finfo(draws.dtype).eps
        dtype = model.events.dtype
        self.center = tf.constant(center, dtype)
        self.width = tf.constant(np.maximum((high - low) / _QUARTILES, tiny), dtype)
        # As in training, by Keras's own rule.
        self.is_compiled = model.jit_compile and not model.run_eagerly

    def step_sizes(self, y, place):
        seed = fold_seed(place, _TUNING)
        start = self._from_prior(len(y), _TUNING_CHAINS, fold_seed(seed, 0))
        tune = _GRAPHS[self.is_compiled][0].__get__(self.model)
        return tune(*self._path(y, start), self.betas, self.num_leapfrog, seed)

    def lower(self, y, sizes, log_det, place):
        def start(count, seed):
            return self._from_prior(len(y), count, seed)

        seed = fold_seed(place, _FORWARD)
        log_weights, acceptance = self._run(y, start, self.betas, sizes, seed)
        return _estimate(log_weights, log_det, acceptance, sign=1.0)

    def upper(self, y, z, sizes, log_det, place):
        def start(count, seed):
            v = (z - self.center) / self.width
            return tf.tile(v[:, None], [1, count, 1])

        seed = fold_seed(place, _BACKWARD)
        # The same steps from the other end: a bound from above needs the way back.
        way_back = self.betas[::-1], sizes[::-1]
        log_weights, acceptance = self._run(y, start, *way_back, seed)
        return _estimate(log_weights, log_det, acceptance, sign=-1.0)

    def _run(self, y, start, betas, sizes, seed):
        """Log weights `[batch, num_chains]`, and acceptance."""
        run = _GRAPHS[self.is_compiled][1].__get__(self.model)
        parts = []
        for first in range(0, self.num_chains, _BLOCK):
            count = min(_BLOCK, self.num_chains - first)
            own = fold_seed(seed, first)
            path = self._path(y, start(count, fold_seed(own, 0)))
            chains = run(*path, betas, sizes, self.num_leapfrog, own)
            parts.append((chains.log_weights, chains.acceptance))
        return (tf.concat(part, axis=1) for part in zip(*parts, strict=True))

    def _path(self, y, start):
        return y[:, None], self.center, self.width, start

    def _from_prior(self, num_events, num_chains, seed):
        return (self._draws(num_events, num_chains, seed) - self.center) / self.width

    def _draws(self, num_events, num_chains, seed):
        # As a tensor: for other numbers, a function would be traced again.
        counts = tf.constant([num_events, num_chains])
        return _prior_draws.__get__(self.model)(counts, seed)


# Graphs, as methods of a model: it holds them, and they end with it.


@traced
def _prior_draws(model, counts, seed):
    """Latents `[*counts, d]`, two counts."""
    shape = tf.concat([counts, [model.latent_dim]], axis=0)
    noise = normal_noise(shape, seed, model.events.dtype)
    noise = tf.ensure_shape(noise, [None, None, model.latent_dim])
    return model.chain.generate(noise)


@traced
def _simulated(model, num_events, seed):
    """Latents `[n, d]`, and preprocessed events `[n, N]` that were made of them."""
    noise = [
        normal_noise([num_events, size], fold_seed(seed, stream), model.events.dtype)
        for stream, size in (
            (_LATENTS, model.latent_dim),
            (_DEVIATIONS, model.event_size),
        )
    ]
    z, deviations = model.chain.generate(noise[0]), noise[1]
    return tuple(decoder_coupling(model.chain.decoded).forward([z, deviations]))


def _densities(model, y, center, width) -> tuple[Density, Density]:
    """Log p(z) up to a constant, and log p(y | z), of v `[*batch, d]`."""
    coupling = decoder_coupling(model.chain.decoded)

    def log_prior(v):
        return model.prior.log_prob(center + width * v)

    def log_likelihood(v):
        pair = [center + width * v, y]
        deviations = coupling.inverse(pair)[1]
        log_normal = standard_normal(model.event_size, y.dtype).log_prob(deviations)
        return log_normal + coupling.inverse_log_det_jacobian(pair, [1, 1])

    return log_prior, log_likelihood


def _tune(model, y, center, width, start, betas, num_leapfrog, seed):
    prior, likelihood = _densities(model, y, center, width)
    return tuned_step_sizes(prior, likelihood, start, betas, num_leapfrog, seed)


def _weigh(
    model, y, center, width, start, betas, sizes, num_leapfrog, seed
) -> Annealed:
    prior, likelihood = _densities(model, y, center, width)
    return annealed_log_weights(
        prior, likelihood, start, betas, sizes, num_leapfrog, seed
    )


_GRAPHS = {
    is_compiled: tuple(
        traced(function, jit_compile=is_compiled) for function in (_tune, _weigh)
    )
    for is_compiled in (False, True)
}


def _events_of(model, y):
    """Events of flat preprocessed ones, and the log-determinant of getting back.

    Bounds are of y itself: rounded to an event and back it would be another one, whose
    posterior the latents are no sample of.
    """
    y = tf.reshape(y, [-1, *model.event_shape])
    bijector = model.preprocessing.bijector
    log_det = -bijector.forward_log_det_jacobian(y, len(model.event_shape))
    return bijector.forward(y), tf.broadcast_to(log_det, [len(y)])


def _importance(model, y, log_det, proposal, num_samples, seed):
    """What `importance_estimate` says of preprocessed events, `[batch]`."""
    y = tf.reshape(y, [-1, *model.event_shape])
    seed = fold_seed(seed, _PROPOSALS)
    scale = tf.constant(model.proposal_scale(proposal), y.dtype)
    parts, start = [], 0
    for count in pass_sizes(len(y), events_per_estimate(model, proposal)):
        part = y[start : start + count]
        own = starting_at(seed, start)
        parts.append(
            estimate_of_preprocessed(
                model,
                part,
                log_det[start : start + count],
                num_samples,
                proposal=proposal,
                scale=scale,
                fit_seed=fold_seed(own, 0),
                seeds=[fold_seed(own, 1)],
            ).log_prob
        )
        start += count
    return joined(parts)


def _estimate(log_weights, log_det, acceptance, sign) -> AnnealedEstimate:
    log_sum = tf.reduce_logsumexp(log_weights, axis=1)
    log_square_sum = tf.reduce_logsumexp(2.0 * log_weights, axis=1)
    log_mean = log_sum - float(np.log(log_weights.shape[1]))
    return AnnealedEstimate(
        sign * tf.cast(log_mean, log_det.dtype) + log_det,
        tf.cast(tf.exp(2.0 * log_sum - log_square_sum), log_det.dtype),
        tf.reduce_mean(acceptance, axis=1),
    )
