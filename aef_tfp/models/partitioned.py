"""The partitioned family: a true bijector of the event, an exact likelihood."""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf
from tensorflow_probability import bijectors as tfb
from tensorflow_probability import distributions as tfd

from aef_tfp.bijectors import Partition, partition_mask
from aef_tfp.bijectors.reuse import chain
from aef_tfp.engine.arguments import checked_count, checked_event_shape
from aef_tfp.models.exact import ExactModel
from aef_tfp.models.pair import PairModel

__all__ = ["PartitionedAEF"]


@keras.saving.register_keras_serializable(package="aef_tfp")
class PartitionedAEF(PairModel, ExactModel):
    """AEF whose core is a part of the event, trained by exact maximum likelihood.

    A mask of `latent_dim` entries splits an event into core and shell. From data to
    base (section 3.1 of the paper):

        u = core_flow.inverse(core)
        z = g_m(shell) + g_s(shell) * u                          (eq. 4)
        deviations = (shell - f(z)) / sigma(z)                   (eq. 5)
        z0 = prior_flow.inverse(z)

    so the model is a bijector from (z0, deviations) to the event, and `log_prob` is
    exact (eq. 7). Encoder and decoder see whole events with zeros in place of the core,
    so the networks of an autoencoder fit as they are. One evaluation costs one pass
    through each network.

    Args:
        event_shape: `(H, W, C)` or `(n,)`.
        latent_dim: Number of latents and of core entries, `1 <= latent_dim < N`.
        partition: `"center"`, `"corner"`, `"random"`, or a boolean array of shape
            `event_shape` with `latent_dim` true entries.
        seed: As in `EventModel`; the random partition uses it too.
        **kwargs: As in `PairModel`, `AutoencodingModel` and `EventModel`.

    Raises:
        ValueError: If an argument is out of its range, or `denoising_target` is
            `"clean"`: the encoding starts from the core's own pixels, which are noisy
            when one denoises, so there is no density of the clean event given them.

    Example:
        >>> model = PartitionedAEF((8, 8, 1), latent_dim=8, num_levels=17)
        >>> model.compile(keras.optimizers.Adam(1e-3))
        >>> history = model.fit(images, batch_size=64, epochs=10)  # uint8, 0 ... 16
        >>> model.log_prob(images[:4]).shape
        TensorShape([4])

    Reference: Silvestri, Roos, Ambrogioni, "Deterministic training of generative
    autoencoders using invertible layers", ICLR 2023.
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        latent_dim: int,
        *,
        partition: Any = "center",
        seed: int = 0,
        **kwargs,
    ):
        event_shape = checked_event_shape(event_shape)
        checked_count("latent_dim", latent_dim)
        mask = partition_mask(partition, event_shape, latent_dim, seed=seed)
        super().__init__(event_shape, latent_dim, seed=seed, **kwargs)
        if self.denoising_target == "clean":
            raise ValueError(
                "PartitionedAEF has no denoising_target 'clean', since its core is a "
                "part of the noisy event; use 'noisy', or an ExpandedAEF."
            )
        self.partition = partition if isinstance(partition, str) else mask
        self._partition = Partition(mask)
        self._complete()

    @property
    def distribution(self) -> tfd.TransformedDistribution:
        """The model as a distribution over events; see `ExactModel`."""
        return tfd.TransformedDistribution(
            self.pair_base,
            chain([self._event_bijector, self.prior_bijector]),
        )

    @property
    def _event_bijector(self) -> tfb.Bijector:
        """Bijector from (z, deviations) to the event."""
        return chain(
            [
                self.preprocessing.bijector,
                self._partition,
                self.autoencoder_bijector,
            ]
        )

    def _objective_of(self, inputs, targets, seed):
        """Log-density of dequantized events (eq. 7), nats, `[batch]`."""
        y, log_det = self._preprocess(targets)
        terms = self._pair_terms(list(self._partition.inverse(y)), self._encode_shell)
        return sum(terms.values()) + log_det

    @property
    def _num_deviations(self) -> int:
        return self.event_size - self.latent_dim

    def _encode(self, y):
        return self._latents_of_pair(*self._partition.inverse(y))

    def _decode(self, z, deviations):
        if deviations is None:
            deviations = _zeros(z, self._num_deviations)
        return self._event_bijector.forward([z, deviations])

    def _adapt_latents(self, y):
        return self._adapt_pair(*self._partition.inverse(y))

    def _pair_of(self, y, seed):
        return list(self._partition.inverse(y)), {}

    def _encode_shell(self, shell):
        no_core = _zeros(shell, self.latent_dim)
        return self.encoder(self._partition.forward([no_core, shell]))

    def _decode_shell(self, z):
        loc, scale = self.decoder(z)
        return self._partition.inverse(loc)[1], self._partition.inverse(scale)[1]

    def get_config(self):
        """Returns the constructor's arguments; networks as serialized objects."""
        partition = self.partition
        if not isinstance(partition, str):
            partition = partition.tolist()
        return {**super().get_config(), "partition": partition}


def _zeros(like: tf.Tensor, size: int) -> tf.Tensor:
    """Zeros with the batch axes of `like`, `[..., size]`."""
    return tf.zeros_like(like[..., :1]) * tf.zeros([size], like.dtype)
