"""What all models with an encoder share: the pair (core, shell) and its bijector."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf
from tensorflow_probability import bijectors as tfb
from tensorflow_probability import distributions as tfd

from aef_tfp import flows
from aef_tfp.bijectors import decoder_coupling, encoder_coupling
from aef_tfp.bijectors.reuse import chain
from aef_tfp.engine.noise import split_seed
from aef_tfp.engine.tracing import traced
from aef_tfp.flows.checks import bijector_of, is_of_user
from aef_tfp.models.autoencoding import AutoencodingModel
from aef_tfp.models.generative import GenerativeModel
from aef_tfp.networks import in_passes

__all__ = ["PairModel"]


class PairModel(AutoencodingModel, GenerativeModel):
    """An autoencoder with a prior flow and Gaussian deviations (abstract).

    It is a density of pairs (core `[d]`, shell `[m]`). From base to data, directions as
    in TFP:

        z = prior_flow.forward(z0),                   z0 ~ N(0, I_d)
        shell = f(z) + sigma(z) * deviations,         deviations ~ N(0, I_m)   (eq. 5)
        u = (z - g_m(shell)) / g_s(shell)             (eq. 4 and 9, inverted)
        core = core_flow.forward(u)

    In an AEF the core is a part or a feature of the event. In a VAE it is noise.

    Args:
        event_shape: As in `EventModel`.
        latent_dim: Number of latents d, at least 1.
        prior_flow: `"maf"`, `"iaf"`, `"none"`, or a Keras layer with a `.bijector` over
            `[d]`.
        core_flow: Flow over the core, likewise.
        **kwargs: As in `AutoencodingModel` and `EventModel`.
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        latent_dim: int,
        *,
        prior_flow: Any = "maf",
        core_flow: Any = "maf",
        **kwargs,
    ):
        super().__init__(event_shape, latent_dim, **kwargs)
        dtype = self.events.dtype
        self.prior_flow = flows.get(
            prior_flow, self.latent_dim, dtype=dtype, name="prior_flow"
        )
        self.core_flow = flows.get(
            core_flow, self.latent_dim, dtype=dtype, name="core_flow"
        )

    def _parts(self):
        shape = (self.latent_dim,)
        return {
            **super()._parts(),
            "prior_flow": (self.prior_flow, shape),
            "core_flow": (self.core_flow, shape),
        }

    @property
    def _repeated_layers(self):
        return [*filter(is_of_user, (self.core_flow, self.prior_flow))]

    @property
    @abstractmethod
    def _num_deviations(self) -> int:
        """Number of standard normal deviations of one event, m."""

    @abstractmethod
    def _adapt_latents(self, y: tf.Tensor) -> tf.Tensor:
        """Initializes the core flow from preprocessed events; returns the latents."""

    @abstractmethod
    def _pair_of(self, y: tf.Tensor, seed: tf.Tensor) -> tuple[list, dict[str, Any]]:
        """The pair [core, shell] of preprocessed events; terms that it brings."""

    @abstractmethod
    def _encode_shell(self, shell: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Location and scale of the latents given the shell, each `[..., d]`."""

    @abstractmethod
    def _decode_shell(self, z: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Location and scale of the shell given latents, each `[..., m]`."""

    @property
    def prior(self) -> tfd.Distribution:
        """Distribution of the latents: the prior flow of a standard normal."""
        return tfd.TransformedDistribution(
            self._standard_normal(self.latent_dim), bijector_of(self.prior_flow)
        )

    @property
    def pair_base(self) -> tfd.Distribution:
        """Standard normal over pairs (z0 `[d]`, deviations `[m]`)."""
        return tfd.JointDistributionSequential(
            [
                self._standard_normal(self.latent_dim),
                self._standard_normal(self._num_deviations),
            ]
        )

    @property
    def prior_bijector(self) -> tfb.Bijector:
        """Bijector from (z0, deviations) to (z, deviations)."""
        return chain([tfb.JointMap([bijector_of(self.prior_flow), tfb.Identity()])])

    @property
    def autoencoder_bijector(self) -> tfb.Bijector:
        """Bijector from (z, deviations) to (core, shell)."""
        return chain(list(self._autoencoder_parts(self._encode_shell).values()))

    def _autoencoder_parts(self, encode_shell: Any) -> dict[str, tfb.Bijector]:
        """The chain's bijectors by name, from data to base."""
        return {
            "core_flow": tfb.JointMap([bijector_of(self.core_flow), tfb.Identity()]),
            "encoder": encoder_coupling(encode_shell),
            "decoder": decoder_coupling(self._decode_shell),
        }

    def objective_terms(self, x: Any, *, seed: int | None = None) -> dict[str, Any]:
        """Splits the objective of events into the terms whose sum it is.

        Without noise on the events; of an IWAE, for one importance sample.

        Args:
            x: `[batch, *event_shape]`, as for `fit`.
            seed: Seed of the dequantization and of a VAE's noise; None draws a new one.

        Returns:
            Nats per event, `[batch]` each: `prior` and `residual`, the standard normal
            densities of the base's two parts; `preprocessing_log_det`,
            `core_flow_log_det`, `encoder_log_det`, `decoder_log_det` and
            `prior_flow_log_det`, the log-determinants from data to base; for a VAE
            `posterior_noise`, which is -log N(epsilon).

        Raises:
            ValueError: If `x` does not fit the model.
        """
        return self._of_events(self._objective_terms, x, seed)

    @traced
    def _objective_terms(self, x, seed):
        y, log_det = self._preprocess(self.dequantize(x, seed))
        pair, terms = self._pair_of(y, seed)
        terms["preprocessing_log_det"] = log_det
        terms.update(self._pair_terms(pair, self._encode_shell))
        zero = tf.zeros([tf.shape(y)[0]], y.dtype)
        # Constant log-determinants come without a batch axis.
        return {name: value + zero for name, value in terms.items()}

    def _pair_terms(self, pair: list, encode_shell: Any) -> dict[str, tf.Tensor]:
        """Terms of log p(core, shell), whose sum it is (eq. 9).

        `pair_distribution.log_prob` has the same value. TFP, which makes it of nested
        distributions, takes a fifth longer to trace it, and XLA to compile it.
        """
        terms = {}
        parts = self._autoencoder_parts(encode_shell)
        for name, bijector in {**parts, "prior_flow": self.prior_bijector}.items():
            terms[f"{name}_log_det"] = bijector.inverse_log_det_jacobian(pair, [1, 1])
            pair = bijector.inverse(pair)
        for name, deviations in zip(("prior", "residual"), pair, strict=True):
            normal = self._standard_normal(deviations.shape[-1])
            terms[name] = normal.log_prob(deviations)
        return terms

    @property
    def _samples_per_pass(self):
        # A partitioned model encodes what it has decoded.
        return min(self._events_per_pass, self._latents_per_pass)

    def _generate(self, num_samples, temperature, with_deviations, seed):
        seeds = split_seed(seed, 2)
        base = temperature * self._noise(num_samples, self.latent_dim, seeds[0])
        z = bijector_of(self.prior_flow).forward(base)
        deviations = None
        if with_deviations:
            noise = self._noise(num_samples, self._num_deviations, seeds[1])
            deviations = temperature * noise
        return self._decode(z, deviations)

    def _latents_of_pair(self, core, shell):
        return self.autoencoder_bijector.inverse([core, shell])[0]

    def _adapt_flows(self, y):
        z = self._adapt_latents(y)
        flows.adapt_inverse(self.prior_flow, z)
        self._check_scales(y, z)

    def _adapt_pair(self, core, shell):
        """Initializes the core flow; returns the latents."""
        u = flows.adapt_inverse(self.core_flow, core)
        loc, scale = in_passes(self._encode_shell, shell, self._events_per_pass)
        return loc + scale * u

    def get_config(self):
        """Returns the constructor's arguments; networks as serialized objects."""
        return {
            **super().get_config(),
            "prior_flow": keras.saving.serialize_keras_object(self.prior_flow),
            "core_flow": keras.saving.serialize_keras_object(self.core_flow),
        }
