"""Variational baselines on the same parts: VAE and IWAE."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, Self

import keras
import numpy as np
import tensorflow as tf

from aef_tfp import flows
from aef_tfp.engine.arguments import checked_count
from aef_tfp.engine.noise import fold_seed, stateless_seed
from aef_tfp.engine.tracing import traced
from aef_tfp.models.expanded import ExpandedAEF
from aef_tfp.models.whole import WholeEventModel
from aef_tfp.networks import density_dtype

__all__ = ["IWAE", "VAE", "VariationalModel"]


class VariationalModel(WholeEventModel):
    """An autoencoder with a stochastic encoder (abstract).

    z = g_m(y) + g_s(y) * posterior_flow.forward(epsilon), epsilon ~ N(0, I) (eq. 1), is
    the encoding of an expanded AEF with noise in place of h(y). So the chain is the
    same, its core flow is the posterior flow inverted, and

        log p(x, z) - log q(z | x) = log p(epsilon, x) - log N(epsilon; 0, I)

    where p(epsilon, x) is the density that the chain gives the pair.

    Args:
        event_shape: `(H, W, C)` or `(n,)`.
        latent_dim: Number of latents d, at least 1.
        posterior_flow: Flow of the posterior's noise: `"iaf"` (parallel here), `"maf"`
            (sequential here), `"none"`, or a Keras layer with a `.bijector`.
        **kwargs: As in `WholeEventModel`, `PairModel`, `AutoencodingModel` and
            `EventModel`.
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        latent_dim: int,
        *,
        posterior_flow: Any = "iaf",
        **kwargs,
    ):
        checked_count("latent_dim", latent_dim)
        dtype = density_dtype(kwargs.get("dtype"))
        posterior_flow = flows.get(
            posterior_flow, latent_dim, dtype=dtype, name="posterior_flow"
        )
        super().__init__(
            event_shape,
            latent_dim,
            core_flow=flows.Inverted(
                posterior_flow, dtype=dtype, name="posterior_flow"
            ),
            **kwargs,
        )
        self._complete()

    def _parts(self):
        parts = super()._parts()
        # What the user gave is the posterior flow; the core flow inverts it.
        parts["posterior_flow"] = parts.pop("core_flow")
        return parts

    @classmethod
    def from_aef(cls, aef: ExpandedAEF) -> Self:
        """Returns a model with copies of an expanded AEF's networks and flows.

        The AEF's core flow, inverted, is the posterior flow: an AEF with a MAF core is
        a VAE with an IAF posterior.

        Args:
            aef: The model to copy from; it stays as it is.
        """
        posterior_flow = flows.Inverted(
            aef.core_flow, dtype=aef.events.dtype, name="posterior_flow"
        )
        model = cls._with_parts_of(
            aef, posterior_flow=keras.saving.serialize_keras_object(posterior_flow)
        )
        model.posterior_flow.set_weights(aef.core_flow.get_weights())
        return model

    @property
    def posterior_flow(self) -> Any:
        """The flow from epsilon to the standardized latents."""
        return self.core_flow.flow

    @abstractmethod
    def elbo(self, x: Any, *, seed: int | None = None) -> tf.Tensor:
        """A lower bound of log p(x), on average, in nats, `[batch]`."""

    def log_prob(self, x: Any, *, seed: int | None = None) -> tf.Tensor:
        """Not available: there is a bound only.

        Raises:
            NotImplementedError: Always; the message names what to call.
        """
        raise NotImplementedError(
            f"{type(self).__name__} has no exact log_prob; use elbo(x) for the "
            "training objective, a lower bound, or marginal_log_prob(x, num_samples) "
            "for a tighter estimate of log p(x)."
        )

    def _bound(self, inputs, targets, num_samples, seed):
        """Log mean of importance weights of the targets, posterior of the inputs."""
        y, log_det = self._preprocess(targets)
        y_inputs = y if inputs is targets else self._preprocess(inputs)[0]
        noise = tf.stack(
            [
                self._noise(tf.shape(y)[0], self.latent_dim, fold_seed(seed, i))
                for i in range(num_samples)
            ]
        )
        unit = tf.ones((), y.dtype)
        proposal = self._propose(y_inputs)
        weights = self._encoder_log_weights(y, noise, unit, proposal)
        log_sum = tf.reduce_logsumexp(weights, axis=0)
        return log_sum - float(np.log(num_samples)) + log_det

    def _proposal_loc(self, y):
        return tf.zeros([tf.shape(y)[0], self.latent_dim], y.dtype)

    def _pair_of(self, y, seed):
        epsilon = self._noise(tf.shape(y)[0], self.latent_dim, fold_seed(seed, 0))
        log_normal = self._standard_normal(self.latent_dim).log_prob(epsilon)
        return [epsilon, self._flat(y)], {"posterior_noise": -log_normal}

    def _adapt_latents(self, y):
        seed = stateless_seed(self.seed)
        epsilon = self._noise(tf.shape(y)[0], self.latent_dim, seed)
        return self._adapt_pair(epsilon, self._flat(y))

    def get_config(self):
        """Returns the constructor's arguments; networks as serialized objects."""
        config = super().get_config()
        del config["core_flow"]
        posterior_flow = keras.saving.serialize_keras_object(self.posterior_flow)
        return {**config, "posterior_flow": posterior_flow}


@keras.saving.register_keras_serializable(package="aef_tfp")
class VAE(VariationalModel):
    """Variational autoencoder with a posterior flow and a prior flow.

    The paper's baseline: an IAF posterior and a MAF prior by default, otherwise the
    parts of `ExpandedAEF` without the expansion. Training maximizes the one-sample ELBO
    (eq. 2).

    Args:
        event_shape: `(H, W, C)` or `(n,)`.
        latent_dim: Number of latents d, at least 1.
        **kwargs: As in `VariationalModel`.

    Example:
        >>> model = VAE((28, 28, 1), latent_dim=32)
        >>> model.compile(keras.optimizers.Adam(1e-3))
        >>> history = model.fit(images, batch_size=128, epochs=1)  # uint8 images
        >>> model.elbo(images[:4]).shape
        TensorShape([4])

    References: Kingma and Welling (arXiv:1312.6114); Kingma et al. (arXiv:1606.04934).
    """

    @property
    def bits_per_dim_name(self) -> str:
        """The objective is a bound, and named so."""
        return "elbo_bits_per_dim"

    def elbo(self, x: Any, *, seed: int | None = None) -> tf.Tensor:
        """Returns the one-sample ELBO.

        Args:
            x: As in `marginal_log_prob`.
            seed: Seed of the dequantization and of epsilon; None draws a new one.

        Returns:
            Nats per event, `[batch]`: on average a lower bound of log p(x).

        Raises:
            ValueError: If `x` does not fit the model.
        """
        return self._of_events(self._elbo, x, seed)

    @traced
    def _elbo(self, x, seed):
        return self._objective_without_noise(x, seed)

    def _objective_of(self, inputs, targets, seed):
        """One-sample ELBO of dequantized events, nats, `[batch]`."""
        return self._bound(inputs, targets, 1, seed)


@keras.saving.register_keras_serializable(package="aef_tfp")
class IWAE(VariationalModel):
    """Importance weighted autoencoder: a VAE trained on the K-sample bound.

    Args:
        event_shape: `(H, W, C)` or `(n,)`.
        latent_dim: Number of latents d, at least 1.
        num_importance_samples: K of the training objective, at least 1.
        **kwargs: As in `VariationalModel`.

    Raises:
        ValueError: If `num_importance_samples` is below 1.

    Reference: Burda, Grosse and Salakhutdinov (arXiv:1509.00519).
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        latent_dim: int,
        *,
        num_importance_samples: int = 5,
        **kwargs,
    ):
        super().__init__(event_shape, latent_dim, **kwargs)
        self.num_importance_samples = checked_count(
            "num_importance_samples", num_importance_samples
        )

    @property
    def bits_per_dim_name(self) -> str:
        """The objective is a K-sample bound, and named so."""
        return "iwae_bits_per_dim"

    def elbo(self, x: Any, *, seed: int | None = None) -> tf.Tensor:
        """Returns the K-sample bound; arguments as in `VAE.elbo`."""
        return self._of_events(self._elbo, x, seed)

    @traced
    def _elbo(self, x, seed):
        return self._objective_without_noise(x, seed)

    def _objective_of(self, inputs, targets, seed):
        """K-sample bound of dequantized events, nats, `[batch]`."""
        return self._bound(inputs, targets, self.num_importance_samples, seed)

    def get_config(self):
        """Returns the constructor's arguments; networks as serialized objects."""
        return {
            **super().get_config(),
            "num_importance_samples": self.num_importance_samples,
        }
