"""Models whose likelihood is an integral over latents, and estimated."""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf
from tensorflow_probability import distributions as tfd

from aef_tfp import inference
from aef_tfp.engine.noise import seeds_under, standard_normal
from aef_tfp.engine.tracing import traced
from aef_tfp.flows.checks import bijector_of
from aef_tfp.inference.importance import (
    EncoderProposal,
    ImportanceEstimate,
    check_proposal,
    checked_scale,
    laplace_proposal,
)
from aef_tfp.inference.laplace import Laplace
from aef_tfp.models.availability import available_if
from aef_tfp.models.chain import WholeShell
from aef_tfp.models.chained import Chained

__all__ = ["Marginal"]


class Marginal(Chained):
    """A mixin of `EventModel` for pairs (w `[d]`, preprocessed event y).

    log p(y) is the integral of p(z, y) over the latents z, estimated by importance
    sampling with a proposal q(z | y). That of the `"encoder"` is a Gaussian N(loc,
    scale^2 I) over w, whose mean is the expansion's features in an AEF, and zero in a
    VAE, whose w is its posterior's noise; core flow and encoder push it to the latents.
    The `"laplace"` proposal is a Gaussian over z, fitted to each event's p(z | y); it
    favours no encoder.
    """

    estimates: ClassVar[bool] = True

    def _make_pair(self, prior_flow: Any, core_flow: Any, proposal_scales: Any) -> None:
        """Makes the chain of a constructor's arguments, and keeps tuned scales."""
        self._make_chain(prior_flow, core_flow, WholeShell(self.event_shape))
        self.proposal_scales: dict[str, float] = {}
        proposal_scales = {} if proposal_scales is None else proposal_scales
        if not isinstance(proposal_scales, Mapping):
            raise ValueError(
                "proposal_scales must be a dictionary of 'encoder' and 'laplace', got "
                f"{proposal_scales!r}."
            )
        for proposal, scale in proposal_scales.items():
            self.set_proposal_scale(proposal, scale)

    @property
    def pair_distribution(self) -> tfd.Distribution:
        """Distribution over pairs (w `[d]`, preprocessed event `[N]`)."""
        return self.chain.distribution

    @property
    def latent_distribution(self) -> tfd.Distribution:
        """Distribution over (latents z `[d]`, preprocessed event `[N]`)."""
        return self.chain.latent_distribution

    @property
    def _has_bound(self) -> bool:
        """Whether training maximizes a lower bound of log p(x)."""
        return True

    # What users ask for.

    @available_if(lambda model: model._has_bound)
    def elbo(self, x: Any, *, seed: int | tf.Tensor | None = None) -> tf.Tensor:
        """Returns the bound that training maximizes: of one sample, or of K.

        A `VAE` and an `IWAE` have it, and an `ExpandedAEF` with expansion noise.

        Args:
            x: As in `marginal_log_prob`.
            seed: Seed of the dequantization and of the model's own noise; None draws a
                new one.

        Returns:
            Nats per event, `[batch]`: on average a lower bound of log p(x).

        Raises:
            ValueError: If `x` does not fit the model.
        """
        return self._of_events(self._objective_in_graph, x, seed)

    def proposal_scale(self, proposal: str = "encoder") -> float:
        """Returns the tuned scale of a proposal, or the default of an untuned one."""
        check_proposal(proposal)
        return float(self.proposal_scales.get(proposal, self._default_scale(proposal)))

    def _default_scale(self, proposal: str) -> float:
        """The scale of a proposal that was not tuned."""
        return 1.0

    def set_proposal_scale(self, proposal: str, scale: float) -> None:
        """Sets the scale that estimates use unless told otherwise; it is saved.

        Args:
            proposal: `"encoder"` or `"laplace"`.
            scale: Positive.

        Raises:
            ValueError: If the proposal is unknown or the scale is not positive.
        """
        check_proposal(proposal)
        self.proposal_scales[proposal] = checked_scale(scale, self.events.dtype)

    def marginal_log_prob(
        self,
        x: Any,
        num_samples: int = 128,
        *,
        num_repeats: int = 1,
        proposal: str = "encoder",
        proposal_scale: float | None = None,
        seed: int | tf.Tensor | None = None,
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
        seed: int | tf.Tensor | None = None,
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
        return inference.importance_estimate(
            self,
            x,
            num_samples,
            num_repeats=num_repeats,
            proposal=proposal,
            proposal_scale=proposal_scale,
            seed=seed,
        )

    # What estimates are made of: p(z, y), proposals, and latents drawn from them.

    def _latent_log_prob(self, z, y):
        """Log p(z, y) of latents `[..., batch, d]`, nats, `[..., batch]`."""
        return self.chain.latent_log_prob(z, self.chain.shell.of_event(y))

    def _propose(self, y):
        """What the encoder says of events, once for all samples."""
        return EncoderProposal(self._core_of(y, None)[0], self.chain.encode_event(y))

    def _draw(self, proposal, noise, scale):
        """Latents of standard normal noise `[..., batch, d]`, and log q(z | y)."""
        log_q = standard_normal(self.latent_dim, noise.dtype).log_prob(noise)
        log_q -= self.latent_dim * tf.math.log(scale)
        if isinstance(proposal, Laplace):
            z = proposal.mode + scale * tf.linalg.matvec(proposal.factor, noise)
            return z, log_q - proposal.log_det
        core = proposal.loc + scale * noise
        z, log_det = self.chain.latents_of(core, proposal.encoded)
        return z, log_q - log_det

    def _log_weights_of(self, y, scale, proposal, noise):
        """Log p(z, y) - log q(z | y) of latents drawn with this noise."""
        z, log_q = self._draw(proposal, noise, scale)
        return self._latent_log_prob(z, y) - log_q

    def _residuals(self, z):
        """Entries r(z) whose J' J is the Fisher information of p(y | z), and p(z)'s.

        For a Gaussian of mean f and standard deviation sigma, that information is
        Jf' Jf / sigma^2 + 2 Js' Js with s = log sigma.
        """
        loc, scale = self.chain.decoded(z)
        parts = [loc / tf.stop_gradient(scale)]
        if self.decoder.scale in ("dependent", "own"):
            parts.append(float(np.sqrt(2.0)) * tf.math.log(scale))
        parts.append(bijector_of(self.prior_flow).inverse(tf.identity(z)))
        return tf.concat(parts, axis=-1)

    # As graphs.

    @traced
    def _preprocessed(self, x, seed):
        return self._preprocess(self.dequantize(x, seed))

    @traced
    def _encoder_proposal(self, y):
        return self._propose(y)

    @traced
    def _laplace_proposal(self, y, scale, seed):
        proposal = self._propose(y)
        return laplace_proposal(
            lambda z: self._latent_log_prob(z, y),
            self._residuals,
            lambda noise: self._draw(proposal, noise, scale)[0],
            (tf.shape(y)[0], self.latent_dim),
            seed,
            y.dtype,
        )

    @traced
    def _log_weights(self, y, scale, proposal, seeds):
        """Log importance weights `[samples, batch]`, one sample per seed."""
        noise = tf.map_fn(
            lambda seed: self._noise(tf.shape(y)[0], self.latent_dim, seed),
            seeds,
            fn_output_signature=y.dtype,
        )
        noise = tf.ensure_shape(noise, [None, None, self.latent_dim])
        return self._log_weights_of(y, scale, proposal, noise)

    @traced
    def _marginal_log_prob(self, x, num_samples, seed):
        """`marginal_log_prob` as one graph: encoder proposal, K a tensor.

        One sample per pass, so that memory is bounded whatever K. The numbers are those
        of `importance_estimate`.
        """
        seeds = seeds_under(seed, 2)
        y, log_det = self._preprocess(self.dequantize(x, seeds[0]))
        scale = tf.constant(self.proposal_scale("encoder"), y.dtype)
        proposal = self._propose(y)
        log_weights = tf.map_fn(
            lambda sample: self._log_weights(y, scale, proposal, sample[None])[0],
            seeds_under(seeds[1], num_samples),
            fn_output_signature=tf.TensorSpec([None], y.dtype),
            parallel_iterations=1,
        )
        log_sum = tf.reduce_logsumexp(log_weights, axis=0)
        return log_sum - tf.math.log(tf.cast(num_samples, y.dtype)) + log_det

    # The event, whole.

    def _decode(self, z, deviations):
        loc, scale = self.chain.decode_event(z)
        if deviations is not None:
            loc += scale * tf.reshape(deviations, tf.shape(loc))
        return self.preprocessing.bijector.forward(loc)
