"""Models whose shell is the whole event, and whose core stands beside it."""

import functools
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import tensorflow as tf
from tensorflow_probability import distributions as tfd

from aef_tfp.bijectors import decoder_coupling
from aef_tfp.bijectors.reuse import chain
from aef_tfp.engine.arguments import check_fits_memory, checked_count
from aef_tfp.engine.noise import (
    fold_seed,
    normal_noise,
    starting_at,
    stateless_seed,
)
from aef_tfp.engine.tracing import traced
from aef_tfp.flows.checks import bijector_of
from aef_tfp.models.frozen import freeze, frozen_layers
from aef_tfp.models.importance import PROPOSALS, ImportanceEstimate, gather_weights
from aef_tfp.models.laplace import Laplace, laplace_approximation
from aef_tfp.models.pair import PairModel
from aef_tfp.networks import with_flat_batch

__all__ = ["WholeEventModel"]

# Places from which the search for a posterior's mode may begin.
_LAPLACE_STARTS = 16


class EncoderProposal(NamedTuple):
    """What the proposal `"encoder"` takes from events, once for all samples.

    Args:
        loc: Mean of q(w | y), `[batch, d]`.
        latents: Location and scale of the latents, `[batch, d]` each.
    """

    loc: tf.Tensor
    latents: tuple[tf.Tensor, tf.Tensor]


class WholeEventModel(PairModel):
    """A model of pairs (w `[d]`, preprocessed event y) with log p(w, y) (abstract).

    log p(y) is the integral over w, and estimated by importance sampling. The proposal
    `"encoder"` is a Gaussian q(w | y) = N(loc, scale^2 I), whose mean is the
    expansion's features in an AEF, and zero in a VAE, whose w is its posterior's noise.
    The proposal `"laplace"` is a Gaussian over the latents z, fitted to each event's
    p(z | y); it favours no encoder.

    Args:
        event_shape: As in `EventModel`.
        latent_dim: Number of latents d, at least 1.
        proposal_scales: Tuned scales of the proposals, by name; see
            `metrics.tune_proposal_scale`. Saved with the model.
        **kwargs: As in `PairModel`.
    """

    # Scales of proposals that were not tuned.
    _default_scales: ClassVar[Mapping[str, float]] = {"encoder": 1.0, "laplace": 1.0}

    def __init__(
        self,
        event_shape: Sequence[int],
        latent_dim: int,
        *,
        proposal_scales: Mapping[str, float] | None = None,
        **kwargs,
    ):
        super().__init__(event_shape, latent_dim, **kwargs)
        self.proposal_scales: dict[str, float] = {}
        for proposal, scale in (proposal_scales or {}).items():
            self.set_proposal_scale(proposal, scale)

    @property
    def pair_distribution(self) -> tfd.TransformedDistribution:
        """Distribution over pairs (w `[d]`, preprocessed event `[N]`)."""
        return tfd.TransformedDistribution(
            tfd.TransformedDistribution(self.pair_base, self.prior_bijector),
            self.autoencoder_bijector,
        )

    @property
    def latent_distribution(self) -> tfd.TransformedDistribution:
        """Distribution over (latents z `[d]`, preprocessed event `[N]`)."""
        return tfd.TransformedDistribution(
            self.pair_base,
            chain([decoder_coupling(self._decode_shell), self.prior_bijector]),
        )

    @classmethod
    def _with_parts_of(cls, other: PairModel, **arguments: Any) -> Self:
        """Builds a model with copies of another one's networks, flow and settings."""
        config = PairModel.get_config(other)
        # The layers of another kind of model have other places.
        del config["name"], config["core_flow"], config["frozen"]
        model = cls.from_config({**config, **arguments})
        for part in ("preprocessing", "encoder", "decoder", "prior_flow"):
            ours, theirs = getattr(model, part), getattr(other, part)
            ours.set_weights(theirs.get_weights())
            freeze(ours, frozen_layers(theirs))
        model._is_adapted.assign(other._is_adapted)
        return model

    # Importance sampling.

    @abstractmethod
    def _proposal_loc(self, y: tf.Tensor) -> tf.Tensor:
        """Mean of q(w | y), `[batch, d]`."""

    def proposal_scale(self, proposal: str = "encoder") -> float:
        """Returns the tuned scale of a proposal, or the default of an untuned one."""
        _check_proposal(proposal)
        return float(self.proposal_scales.get(proposal, self._default_scales[proposal]))

    def set_proposal_scale(self, proposal: str, scale: float) -> None:
        """Sets the scale that estimates use unless told otherwise; it is saved.

        Args:
            proposal: `"encoder"` or `"laplace"`.
            scale: Positive.

        Raises:
            ValueError: If the proposal is unknown or the scale is not positive.
        """
        _check_proposal(proposal)
        self.proposal_scales[proposal] = _checked_scale(scale)

    def marginal_log_prob(
        self,
        x: Any,
        num_samples: int = 128,
        *,
        num_repeats: int = 1,
        proposal: str = "encoder",
        proposal_scale: float | None = None,
        seed: int | None = None,
    ) -> tf.Tensor:
        """Estimates log p(x) by importance sampling (eq. 17 and 18).

            log p(x) ~ log sum_k p(x, w_k) / q(w_k | x) - log K,   w_k ~ q

        The estimate is a lower bound on average, and tightens as K grows; `- log K` is
        included.

        Args:
            x: `[batch, *event_shape]`: integers below `num_levels`, or floats, taken as
                dequantized, in [0, 1] where a pixel logit precedes the model.
            num_samples: K, at least 1.
            num_repeats: R: `num_samples` R times, pooled inside the logarithm.
            proposal: `"encoder"`, around what the encoder says, or `"laplace"`, a
                Gaussian at the mode of p(z | x) with the Laplace covariance: a tighter
                bound for a search of several Newton steps per event.
            proposal_scale: Standard deviation of the encoder proposal, or factor on
                those of the Laplace proposal. None: the tuned one, or else the default.
                A wrong one gives a loose bound, never too high a value on average.
            seed: Seed of the dequantization and the proposal; None draws a new one.

        Returns:
            Nats per event, `[batch]`.

        Raises:
            ValueError: If `x` has a wrong shape or values out of range, or another
                argument is out of its range.
        """
        return self.importance_estimate(
            x,
            num_samples,
            num_repeats=num_repeats,
            proposal=proposal,
            proposal_scale=proposal_scale,
            seed=seed,
        ).log_prob

    def importance_estimate(
        self,
        x: Any,
        num_samples: int = 128,
        *,
        num_repeats: int = 1,
        proposal: str = "encoder",
        proposal_scale: float | None = None,
        seed: int | None = None,
    ) -> ImportanceEstimate:
        """Returns what `marginal_log_prob` does, with the effective sample size.

        Memory is bounded whatever the number of events and samples: a pass through the
        decoder makes at most 2^23 entries of its largest layer (one event, where that
        is larger), 32 MB, and all layers of a small model together take about 260 MB.

        Args:
            x: As in `marginal_log_prob`, like all other arguments.
            num_samples: K.
            num_repeats: R.
            proposal: `"encoder"` or `"laplace"`.
            proposal_scale: None or positive.
            seed: None draws a new one.
        """
        checked_count("num_samples", num_samples)
        checked_count("num_repeats", num_repeats)
        _check_proposal(proposal)
        if proposal_scale is None:
            proposal_scale = self.proposal_scale(proposal)
        scale = tf.constant(_checked_scale(proposal_scale), self.events.dtype)
        x = self.events.checked(x, density=True)
        seeds = tf.random.split(stateless_seed(seed), 1 + num_repeats)
        check_fits_memory(
            f"num_samples of {num_samples:,}",
            16 * num_samples * num_repeats,
            "take fewer",
        )
        latents_per_pass = self._latents_per_pass
        events_per_pass = latents_per_pass
        if proposal == "laplace":
            # The Jacobian's d columns are so many passes at once.
            columns = max(self.latent_dim, _LAPLACE_STARTS)
            events_per_pass = max(1, latents_per_pass // columns)
        parts = []
        for start in range(0, max(1, len(x)), events_per_pass):
            events, log_det = self._preprocessed(
                x[start : start + events_per_pass], starting_at(seeds[0], start)
            )
            if proposal == "encoder":
                fitted = self._encoder_proposal(events)
            else:
                fitted = self._laplace(
                    events,
                    tf.constant(self.proposal_scale("encoder"), events.dtype),
                    fold_seed(seeds[0], start),
                )
            # A seed for each sample: how many go through one pass changes nothing.
            repeats = (
                tf.random.split(fold_seed(seed, start), num_samples)
                for seed in seeds[1:]
            )
            parts.append(
                gather_weights(
                    functools.partial(self._log_weights, events, scale, fitted),
                    repeats,
                    num_samples,
                    max(1, latents_per_pass // max(1, len(events))),
                    log_det,
                )
            )
        return ImportanceEstimate(
            tf.concat([part.log_sums for part in parts], axis=-1),
            tf.concat([part.log_square_sum for part in parts], axis=0),
            num_samples,
        )

    @traced
    def _marginal_log_prob(self, x, num_samples, seed):
        """`marginal_log_prob` as one graph: encoder proposal, K a tensor.

        One sample per pass, so that memory is bounded whatever K. The numbers are those
        of `importance_estimate` for as many events as go through one pass there.
        """
        seeds = tf.random.split(seed, 2)
        y, log_det = self._preprocess(self.dequantize(x, seeds[0]))
        scale = tf.constant(self.proposal_scale("encoder"), y.dtype)
        proposal = self._propose(y)
        log_weights = tf.map_fn(
            lambda sample: self._log_weights(y, scale, proposal, sample[None])[0],
            tf.random.split(fold_seed(seeds[1], 0), num_samples),
            fn_output_signature=tf.TensorSpec([None], y.dtype),
            parallel_iterations=1,
        )
        log_sum = tf.reduce_logsumexp(log_weights, axis=0)
        return log_sum - tf.math.log(tf.cast(num_samples, y.dtype)) + log_det

    @traced
    def _preprocessed(self, x, seed):
        return self._preprocess(self.dequantize(x, seed))

    @traced
    def _encoder_proposal(self, y: tf.Tensor) -> EncoderProposal:
        return self._propose(y)

    def _propose(self, y):
        return EncoderProposal(self._proposal_loc(y), self.encoder(y))

    @traced
    def _log_weights(self, y, scale, proposal, seeds):
        """Log importance weights `[samples, batch]`, one sample per seed."""
        noise = tf.map_fn(
            lambda seed: self._noise(tf.shape(y)[0], self.latent_dim, seed),
            seeds,
            fn_output_signature=y.dtype,
        )
        noise = tf.ensure_shape(noise, [None, None, self.latent_dim])
        if isinstance(proposal, Laplace):
            return self._laplace_log_weights(y, noise, scale, proposal)
        return self._encoder_log_weights(y, noise, scale, proposal)

    def _encoder_log_weights(self, y, noise, scale, proposal):
        """Weights log p(w, y) - log q(w | y) at w = loc + scale * noise."""
        core = proposal.loc + scale * noise
        log_prob = self._pair_log_prob(core, y, proposal.latents)
        return log_prob - self._log_proposal(noise, scale)

    def _laplace_log_weights(self, y, noise, scale, laplace):
        """Weights log p(z, y) - log q(z | y) at z = mode + scale * factor noise."""
        z = laplace.mode + scale * tf.linalg.matvec(laplace.factor, noise)
        log_proposal = self._log_proposal(noise, scale) - laplace.log_det
        return self._latent_log_prob(z, y) - log_proposal

    def _log_proposal(self, noise, scale):
        log_normal = self._standard_normal(self.latent_dim).log_prob(noise)
        return log_normal - self.latent_dim * tf.math.log(scale)

    @traced
    def _laplace(self, y: tf.Tensor, scale: tf.Tensor, seed: tf.Tensor) -> Laplace:
        # From the best of a few draws of the encoder, and what it says without noise: a
        # posterior over few latents can have several modes.
        shape = [_LAPLACE_STARTS - 1, tf.shape(y)[0] * self.latent_dim]
        noise = tf.reshape(
            normal_noise(shape, seed, y.dtype), [shape[0], -1, self.latent_dim]
        )
        cores = self._proposal_loc(y) + scale * tf.pad(noise, [[1, 0], [0, 0], [0, 0]])
        starts = self._latents_of_pair(cores, self._flat(y))
        values = self._latent_log_prob(starts, y)
        values = tf.where(tf.math.is_finite(values), values, values.dtype.min)
        best = tf.argmax(values, axis=0)
        return laplace_approximation(
            lambda z: self._latent_log_prob(z, y),
            self._residuals,
            tf.gather(tf.transpose(starts, [1, 0, 2]), best, batch_dims=1),
        )

    def _latent_log_prob(self, z, y):
        return self.latent_distribution.log_prob([tf.identity(z), self._flat(y)])

    def _residuals(self, z):
        """Entries r(z) whose J' J is the Fisher information of p(y | z), and p(z)'s.

        For a Gaussian of mean f and standard deviation sigma, that information is
        Jf' Jf / sigma^2 + 2 Js' Js with s = log sigma.
        """
        loc, scale = self._decode_shell(z)
        parts = [loc / tf.stop_gradient(scale)]
        if self.decoder.scale in ("dependent", "own"):
            parts.append(float(np.sqrt(2.0)) * tf.math.log(scale))
        parts.append(bijector_of(self.prior_flow).inverse(tf.identity(z)))
        return tf.concat(parts, axis=-1)

    def _pair_log_prob(self, core, y, latents):
        """Log p(core, y), given what the encoder says: location and scale."""
        terms = self._pair_terms([core, self._flat(y)], lambda shell: latents)
        return sum(terms.values())

    @property
    def _num_deviations(self) -> int:
        return self.event_size

    def _encode(self, y):
        return self._latents_of_pair(self._proposal_loc(y), self._flat(y))

    def _decode(self, z, deviations):
        loc, scale = self.decoder(z)
        if deviations is not None:
            loc += scale * tf.reshape(deviations, tf.shape(loc))
        return self.preprocessing.bijector.forward(loc)

    def _encode_shell(self, shell):
        return with_flat_batch(
            lambda flat: self.encoder(tf.reshape(flat, [-1, *self.event_shape])),
            shell,
            event_ndims=1,
        )

    def _decode_shell(self, z):
        return with_flat_batch(
            lambda flat: tuple(self._flat(part) for part in self.decoder(flat)),
            z,
            event_ndims=1,
        )

    def get_config(self):
        """Returns the constructor's arguments; networks as serialized objects."""
        return {**super().get_config(), "proposal_scales": dict(self.proposal_scales)}


def _check_proposal(proposal: str) -> None:
    if proposal not in PROPOSALS:
        raise ValueError(f"proposal must be 'encoder' or 'laplace', got {proposal!r}.")


def _checked_scale(scale: float) -> float:
    if not (np.isfinite(scale) and scale > 0.0):
        raise ValueError(f"proposal_scale must be a positive number, got {scale!r}.")
    return float(scale)
