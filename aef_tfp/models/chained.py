"""What models with a chain have in common: its parts, its terms, its samples."""

from abc import abstractmethod
from typing import Any, ClassVar

import keras
import tensorflow as tf
from tensorflow_probability import distributions as tfd

from aef_tfp import flows
from aef_tfp.engine.noise import fold_seed, split_seed, stateless_seed
from aef_tfp.engine.tracing import traced
from aef_tfp.models.autoencoding import Autoencoding
from aef_tfp.models.chain import Chain, Shell
from aef_tfp.models.density import Density

__all__ = ["Chained"]


class Chained(Autoencoding, Density):
    """A mixin of `EventModel` for autoencoders with a prior flow and deviations.

    What they are, `models.chain.Chain` says.
    """

    has_terms: ClassVar[bool] = True

    def _make_chain(self, prior_flow: Any, core_flow: Any, shell: Shell) -> None:
        """Makes the flows of a constructor's arguments, and the chain."""
        dtype = self.events.dtype
        self.prior_flow = flows.get(
            prior_flow, self.latent_dim, dtype=dtype, name="prior_flow"
        )
        self.core_flow = flows.get(
            core_flow, self.latent_dim, dtype=dtype, name="core_flow"
        )
        self.chain = Chain(
            self.encoder,
            self.decoder,
            self.core_flow,
            self.prior_flow,
            shell,
            self.latent_dim,
            dtype,
        )

    def _parts(self):
        shape = (self.latent_dim,)
        return {
            **super()._parts(),
            "prior_flow": (self.prior_flow, shape),
            "core_flow": (self.core_flow, shape),
        }

    @property
    def _repeated_layers(self) -> list[keras.layers.Layer]:
        return self.chain.flows_of_user

    @abstractmethod
    def _core_of(self, y: tf.Tensor, seed: Any) -> tuple[tf.Tensor, dict[str, Any]]:
        """The core of preprocessed events, `[batch, d]`; terms that it brings.

        Args:
            y: Preprocessed events.
            seed: Of a core that is noise; None for its mean.
        """

    @property
    def prior(self) -> tfd.Distribution:
        """Distribution of the latents: the prior flow of a standard normal."""
        return self.chain.prior

    def objective_terms(
        self, x: Any, *, seed: int | tf.Tensor | None = None
    ) -> dict[str, Any]:
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
        core, terms = self._core_of(y, fold_seed(seed, 0))
        terms["preprocessing_log_det"] = log_det
        terms.update(self.chain.terms(core, self.chain.shell.of_event(y)))
        zero = tf.zeros([tf.shape(y)[0]], y.dtype)
        # Constant log-determinants come without a batch axis.
        return {name: value + zero for name, value in terms.items()}

    def _generate(self, num_samples, temperature, with_deviations, seed):
        seeds = split_seed(seed, 2)
        base = temperature * self._noise(num_samples, self.latent_dim, seeds[0])
        z = self.chain.generate(base)
        deviations = None
        if with_deviations:
            noise = self._noise(num_samples, self.chain.shell.size, seeds[1])
            deviations = temperature * noise
        return self._decode(z, deviations)

    def _encode(self, y):
        core, _ = self._core_of(y, None)
        return self.chain.latents(core, self.chain.shell.of_event(y))

    def _adapt_flows(self, y):
        # As in a step: the events were dequantized under the seed itself.
        seed = fold_seed(stateless_seed(self.seed), 0)
        core, _ = self._core_of(y, seed)
        shell = self.chain.shell.of_event(y)
        z = self.chain.adapt(core, shell, self._events_per_pass)
        self._check_scales(y, z)
