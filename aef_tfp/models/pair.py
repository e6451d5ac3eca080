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
from aef_tfp.models.generative import GenerativeModel

__all__ = ["PairModel"]


class PairModel(GenerativeModel):
    """A model on pairs (core `[d]`, shell `[m]`) (abstract).

    From base to data:

        z = prior_flow.forward(z0)
        shell = f(z) + sigma(z) * deviations          (eq. 5)
        u = (z - g_m(shell)) / g_s(shell)             (eq. 4 and 9, inverted)
        core = core_flow.forward(u)

    In an AEF the core is a part or a feature of the event. In a VAE it is noise.

    Args:
        event_shape: As in `GenerativeModel`.
        latent_dim: As in `GenerativeModel`.
        core_flow: Flow over the core, like `prior_flow`: `"maf"`, `"iaf"`, `"none"` or
            a Keras layer with a `.bijector`.
        **kwargs: As in `GenerativeModel`.
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        latent_dim: int,
        *,
        core_flow: Any = "maf",
        **kwargs,
    ):
        super().__init__(event_shape, latent_dim, **kwargs)
        self.core_flow = flows.get(
            core_flow, self.latent_dim, dtype=self.dtype_policy.variable_dtype
        )

    @abstractmethod
    def _encode_shell(self, shell: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Location and scale of the latents given the shell, each `[..., d]`."""

    @abstractmethod
    def _decode_shell(self, z: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Location and scale of the shell given latents, each `[..., m]`."""

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
        return tfb.JointMap([self.prior_flow.bijector, tfb.Identity()])

    @property
    def autoencoder_bijector(self) -> tfb.Bijector:
        """Bijector from (z, deviations) to (core, shell)."""
        return tfb.Chain(
            [
                tfb.JointMap([self.core_flow.bijector, tfb.Identity()]),
                encoder_coupling(self._encode_shell),
                decoder_coupling(self._decode_shell),
            ]
        )

    def _latents_of_pair(self, core, shell):
        return self.autoencoder_bijector.inverse([core, shell])[0]

    def _adapt_pair(self, core, shell):
        """Initializes the core flow; returns the latents."""
        u = flows.adapt_inverse(self.core_flow, core)
        loc, scale = self._encode_shell(shell)
        return loc + scale * u

    def get_config(self):
        """Returns the constructor's arguments; networks as serialized objects."""
        return {
            **super().get_config(),
            "core_flow": keras.saving.serialize_keras_object(self.core_flow),
        }
