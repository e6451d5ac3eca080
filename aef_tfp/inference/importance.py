"""Importance sampling: what an estimate of log p(x) is, and how it is gathered."""

import dataclasses
import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Protocol

import numpy as np
import tensorflow as tf

from aef_tfp.engine.arguments import check_fits_memory, checked_count, is_number
from aef_tfp.engine.noise import (
    fold_seed,
    normal_noise,
    seeds_under,
    split_seed,
    starting_at,
    stateless_seed,
)
from aef_tfp.inference.laplace import Laplace, laplace_approximation
from aef_tfp.networks.batching import in_passes

__all__ = [
    "PROPOSALS",
    "EncoderProposal",
    "ImportanceEstimate",
    "check_proposal",
    "checked_scale",
    "estimate_of_preprocessed",
    "events_per_estimate",
    "gather_weights",
    "importance_estimate",
    "laplace_proposal",
]

PROPOSALS = ("encoder", "laplace")

# Places from which the search for a posterior's mode may begin.
_LAPLACE_STARTS = 16


class EncoderProposal(NamedTuple):
    """A Gaussian over cores, N(loc, scale^2 I), as a proposal of latents.

    Args:
        loc: `[batch, d]`: the features of an AEF, zero for the noise of a VAE.
        encoded: Location and scale of the latents, `[batch, d]` each.
    """

    loc: tf.Tensor
    encoded: tuple[tf.Tensor, tf.Tensor]


@dataclasses.dataclass(frozen=True)
class ImportanceEstimate:
    """An estimate of log p(x) from R repeats of K weights v = p(x, w) / q(w | x).

    Args:
        log_sums: Log of the sum of each repeat's weights, `[num_repeats, batch]`.
        effective_sample_size: (sum v)^2 / sum v^2 of all weights, `[batch]`, from 1 to
            R K; 0 where all weights are, and log p(x) is estimated as -inf.
        num_samples: K, weights per repeat.
    """

    log_sums: tf.Tensor
    effective_sample_size: tf.Tensor
    num_samples: int

    @property
    def num_repeats(self) -> int:
        """R."""
        return int(self.log_sums.shape[0])

    @property
    def log_prob(self) -> tf.Tensor:
        """Log of the mean of all R K weights, nats, `[batch]` (eq. 17, 18).

        The repeats are pooled inside the logarithm. On average it is a lower bound of
        log p(x), which tightens as R K grows.
        """
        total = float(np.log(self.num_repeats * self.num_samples))
        return tf.reduce_logsumexp(self.log_sums, axis=0) - total

    @property
    def paper_log_prob_without_log_k(self) -> tf.Tensor:
        """The estimator of the paper's code for the linear AEF, nats, `[batch]`.

        The mean over repeats of log sum_k v_k: without `- log K`, which makes it log K
        too high (4.85 nats at K = 128), and with the repeats averaged outside the
        logarithm. It is no estimate of log p(x), and serves for comparing with the
        paper's tables alone.
        """
        return tf.reduce_mean(self.log_sums, axis=0)


def gather_weights(
    log_weights: Callable[[tf.Tensor], tf.Tensor],
    repeats: Iterable[tf.Tensor],
    num_samples: int,
    samples_per_pass: int,
    log_det: tf.Tensor,
) -> ImportanceEstimate:
    """Sums weights over passes of bounded size.

    Args:
        log_weights: Maps seeds `[samples, 3]` to log weights `[samples, batch]`.
        repeats: Seeds `[num_samples, 3]` of each repeat.
        num_samples: K.
        samples_per_pass: Samples of one call of `log_weights` at most.
        log_det: Added to every log weight, `[batch]`.
    """
    log_sums = []
    log_total: Any = None
    log_square_sum: Any = None
    for seeds in repeats:
        log_sum = None
        for start in range(0, num_samples, samples_per_pass):
            values = log_weights(seeds[start : start + samples_per_pass]) + log_det
            log_sum = _added(log_sum, tf.reduce_logsumexp(values, axis=0))
            # What is left of 1e5 nats, less as many, has no digit in single precision.
            values = tf.cast(values, tf.float64)
            log_total = _added(log_total, tf.reduce_logsumexp(values, axis=0))
            square = tf.reduce_logsumexp(2.0 * values, axis=0)
            log_square_sum = _added(log_square_sum, square)
        log_sums.append(log_sum)
    size = tf.exp(2.0 * log_total - log_square_sum)
    # 0 / 0 would be NaN. No weight counts there.
    size = tf.where(log_total == float("-inf"), tf.zeros_like(size), size)
    size = tf.cast(size, log_det.dtype)
    return ImportanceEstimate(tf.stack(log_sums), size, num_samples)


def _added(total: tf.Tensor | None, value: tf.Tensor) -> tf.Tensor:
    """Log of the sum of two numbers given by their logs; None stands for zero."""
    return value if total is None else tf.reduce_logsumexp([total, value], axis=0)


class _Estimated(Protocol):
    """What an estimate asks of a model: p(z, y), and q(z | y) to draw from."""

    events: Any
    latent_dim: int
    _events_per_pass: int
    _latents_per_pass: int

    def _preprocessed(self, x, seed): ...
    def _encoder_proposal(self, y): ...
    def _laplace_proposal(self, y, scale, seed): ...
    def _log_weights(self, y, scale, proposal, seeds): ...
    def proposal_scale(self, proposal): ...


def importance_estimate(
    model: _Estimated,
    x: Any,
    num_samples: int,
    *,
    num_repeats: int,
    proposal: str,
    proposal_scale: float | None,
    seed: int | tf.Tensor | None,
) -> ImportanceEstimate:
    """Does what `importance_estimate` of a model says, in passes.

    Args:
        model: The model.
        x: Events, as for all other arguments.
        num_samples: K.
        num_repeats: R.
        proposal: `"encoder"` or `"laplace"`.
        proposal_scale: None or positive.
        seed: None draws a new one.
    """
    checked_count("num_samples", num_samples)
    checked_count("num_repeats", num_repeats)
    check_proposal(proposal)
    if proposal_scale is None:
        proposal_scale = model.proposal_scale(proposal)
    dtype = model.events.dtype
    scale = tf.constant(checked_scale(proposal_scale, dtype), dtype)
    x = model.events.checked(x, density=True)
    whole = starting_at(stateless_seed(seed), 0)
    first = whole[2]
    seeds = split_seed(whole[:2], 1 + num_repeats)
    check_fits_memory(
        f"num_samples of {num_samples:,}",
        16 * num_samples * num_repeats,
        "take fewer",
    )
    parts = []
    for cut in _cuts(x.shape[0], events_per_estimate(model, proposal)):
        place = first + cut.start
        events, log_det = model._preprocessed(x[cut], starting_at(seeds[0], place))
        parts.append(
            estimate_of_preprocessed(
                model,
                events,
                log_det,
                num_samples,
                proposal=proposal,
                scale=scale,
                fit_seed=starting_at(fold_seed(seeds[0], 0), place),
                seeds=[starting_at(seed, place) for seed in seeds[1:]],
            )
        )
    return ImportanceEstimate(
        tf.concat([part.log_sums for part in parts], axis=-1),
        tf.concat([part.effective_sample_size for part in parts], axis=0),
        num_samples,
    )


def events_per_estimate(model: _Estimated, proposal: str) -> int:
    """How many events `estimate_of_preprocessed` takes in bounded memory."""
    if proposal == "encoder":
        return model._latents_per_pass
    # The Jacobian's d columns are so many passes at once.
    return max(1, model._latents_per_pass // max(model.latent_dim, _LAPLACE_STARTS))


def estimate_of_preprocessed(
    model: _Estimated,
    y: tf.Tensor,
    log_det: tf.Tensor,
    num_samples: int,
    *,
    proposal: str,
    scale: tf.Tensor,
    fit_seed: tf.Tensor,
    seeds: Iterable[tf.Tensor],
) -> ImportanceEstimate:
    """Estimates log p(y) + log_det of events that go through one pass.

    Args:
        model: The model.
        y: Preprocessed events.
        log_det: `[batch]`.
        num_samples: K.
        proposal: `"encoder"` or `"laplace"`.
        scale: Of the proposal.
        fit_seed: Of the search for a Laplace proposal, `[3]`: with the place of the
            first event, so that each has its noise whichever go with it.
        seeds: Stateless seeds, one per repeat, likewise.
    """
    samples_per_pass = 1
    # A graph that does not know how many events it gets takes a sample at a time.
    if y.shape[0] is not None:
        samples_per_pass = max(1, model._latents_per_pass // max(1, y.shape[0]))
    # Nothing is fitted to no events.
    if proposal == "encoder" or y.shape[0] == 0:
        fitted = in_passes(model._encoder_proposal, y, model._events_per_pass)
    else:
        encoder_scale = tf.constant(model.proposal_scale("encoder"), y.dtype)
        fitted = model._laplace_proposal(y, encoder_scale, fit_seed)
    return gather_weights(
        functools.partial(model._log_weights, y, scale, fitted),
        # A seed for each sample: how many go through one pass changes nothing.
        (seeds_under(seed, num_samples) for seed in seeds),
        num_samples,
        samples_per_pass,
        log_det,
    )


def _cuts(count: int | None, size: int) -> list[slice]:
    """Slices of `size` events; one of all where a graph does not know how many."""
    if count is None:
        return [slice(0, None)]
    return [slice(start, start + size) for start in range(0, max(1, count), size)]


def laplace_proposal(
    latent_log_prob: Callable[[tf.Tensor], tf.Tensor],
    residuals: Callable[[tf.Tensor], tf.Tensor],
    draw: Callable[[tf.Tensor], tf.Tensor],
    shape: tuple[Any, int],
    seed: tf.Tensor,
    dtype: Any,
) -> Laplace:
    """Fits a Gaussian to the posterior over the latents of each event.

    The search begins at the best of a few draws of the encoder, and of what it says
    without noise: a posterior over few latents can have several modes.

    Args:
        latent_log_prob: log p(z, y) of latents `[..., batch, d]`.
        residuals: As in `laplace_approximation`.
        draw: Latents of standard normal noise `[starts, batch, d]`.
        shape: `(batch, d)`.
        seed: Stateless seed, `[2]`, or `[3]` of `noise.starting_at`.
        dtype: Of the latents.
    """
    batch, latent_dim = shape
    # Events first: the noise is that of their places.
    noise = normal_noise([batch, _LAPLACE_STARTS - 1, latent_dim], seed, dtype)
    noise = tf.ensure_shape(noise, [None, _LAPLACE_STARTS - 1, latent_dim])
    noise = tf.transpose(noise, [1, 0, 2])
    starts = draw(tf.pad(noise, [[1, 0], [0, 0], [0, 0]]))
    values = latent_log_prob(starts)
    values = tf.where(tf.math.is_finite(values), values, values.dtype.min)
    best = tf.argmax(values, axis=0)
    start = tf.gather(tf.transpose(starts, [1, 0, 2]), best, batch_dims=1)
    return laplace_approximation(latent_log_prob, residuals, start)


def check_proposal(proposal: str) -> None:
    """Raises a ValueError if there is no such proposal."""
    if proposal not in PROPOSALS:
        raise ValueError(f"proposal must be 'encoder' or 'laplace', got {proposal!r}.")


def checked_scale(scale: Any, dtype: str) -> float:
    """Returns a proposal's scale after a check; it counts as a number of a dtype."""
    limits = np.finfo(dtype)
    if not (is_number(scale) and limits.tiny <= scale <= limits.max):
        raise ValueError(
            f"proposal_scale must be a positive number, got {scale!r} (in {dtype})."
        )
    return float(scale)
