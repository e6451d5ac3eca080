"""Models whose shell is the whole event, and whose core stands beside it."""

from abc import abstractmethod
from typing import Any, Self

import tensorflow as tf
from tensorflow_probability import distributions as tfd

from aef_tfp.models.arguments import checked_count, normal_noise, stateless_seed
from aef_tfp.models.generative import GenerativeModel
from aef_tfp.models.pair import PairModel
from aef_tfp.networks import with_flat_batch

__all__ = ["WholeEventModel"]

# Floats of one [samples, batch, event] tensor in importance sampling: 64 MB of them.
_CHUNK_FLOATS = 2**24


class WholeEventModel(PairModel):
    """A model of pairs (w `[d]`, preprocessed event y) with log p(w, y) (abstract).

    log p(y) is the integral over w, and estimated by importance sampling with a
    Gaussian proposal q(w | y), whose mean a kind of model names in `_proposal_loc`: the
    expansion's features in an AEF, zero in a VAE, whose w is its posterior's noise.
    """

    @property
    def pair_distribution(self) -> tfd.TransformedDistribution:
        """Distribution over pairs (w `[d]`, preprocessed event `[N]`)."""
        return tfd.TransformedDistribution(
            tfd.TransformedDistribution(self.pair_base, self.prior_bijector),
            self.autoencoder_bijector,
        )

    @classmethod
    def _with_parts_of(cls, other: GenerativeModel, **arguments: Any) -> Self:
        """Builds a model with copies of another one's networks, flow and settings."""
        config = GenerativeModel.get_config(other)
        del config["name"]
        model = cls.from_config({**config, **arguments})
        for part in ("preprocessing", "encoder", "decoder", "prior_flow"):
            getattr(model, part).set_weights(getattr(other, part).get_weights())
        model._is_adapted.assign(other._is_adapted)
        return model

    @abstractmethod
    def _proposal_loc(self, y: tf.Tensor) -> tf.Tensor:
        """Mean of q(w | y), `[batch, d]`."""

    def _importance_log_prob(
        self, x: Any, num_samples: int, scale: float, seed: int | None
    ) -> tf.Tensor:
        """Estimates log p(x) with samples w_k of q = N(_proposal_loc, scale^2 I).

        log p(x) ~ log sum_k p(x, w_k) / q(w_k) - log K. Memory is bounded by chunks of
        the samples.
        """
        checked_count("num_samples", num_samples)
        x = self.events.checked(x)
        dequantize_seed, *seeds = tf.unstack(
            tf.random.split(stateless_seed(seed), 1 + num_samples)
        )
        y, log_det = self._preprocessed(x, dequantize_seed)
        proposal_scale = tf.constant(scale, y.dtype)
        chunk = max(1, _CHUNK_FLOATS // max(1, int(tf.size(y))))
        log_weights = [
            self._log_weights(y, tf.stack(seeds[i : i + chunk]), proposal_scale)
            for i in range(0, num_samples, chunk)
        ]
        log_mean = tf.reduce_logsumexp(tf.concat(log_weights, axis=0), axis=0) - (
            tf.math.log(tf.constant(num_samples, y.dtype))
        )
        return log_mean + log_det

    @tf.function(reduce_retracing=True)
    def _preprocessed(self, x, seed):
        return self._preprocess(x, seed)

    @tf.function(reduce_retracing=True)
    def _log_weights(self, y, seeds, scale):
        """Log importance weights `[samples, batch]`, one sample per seed."""
        noise = tf.map_fn(
            lambda seed: self._noise(tf.shape(y)[0], seed),
            seeds,
            fn_output_signature=y.dtype,
        )
        noise = tf.ensure_shape(noise, [None, None, self.latent_dim])
        return self._log_weights_of(y, noise, scale)

    def _log_weights_of(self, y, noise, scale):
        """Weights log p(y, w) - log q(w | y) at w = loc + scale * noise."""
        log_proposal = self._standard_normal(self.latent_dim).log_prob(noise)
        log_proposal -= self.latent_dim * tf.math.log(scale)
        core = self._proposal_loc(y) + scale * noise
        return self._pair_log_prob(core, y) - log_proposal

    def _noise(self, num_events, seed):
        return normal_noise([num_events, self.latent_dim], seed, self.events.dtype)

    def _preprocess(self, x, seed):
        """Preprocessed events and the log-determinant of getting there."""
        x = tf.identity(self.dequantize(x, seed))
        bijector = self.preprocessing.bijector
        log_det = bijector.inverse_log_det_jacobian(x, len(self.event_shape))
        return bijector.inverse(x), log_det

    def _pair_log_prob(self, core, y):
        return self.pair_distribution.log_prob([core, self._flat(y)])

    def _flat(self, y):
        return tf.reshape(y, [-1, self.event_size])

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
