"""The deterministic baseline: an autoencoder trained by least squares."""

from collections.abc import Sequence
from typing import Any, ClassVar

import keras
import tensorflow as tf

from aef_tfp.models.autoencoding import AutoencodingModel
from aef_tfp.networks import PointEncoder

__all__ = ["Autoencoder"]


@keras.saving.register_keras_serializable(package="aef_tfp")
class Autoencoder(AutoencodingModel):
    """Deterministic autoencoder on the same networks, trained by least squares.

    The loss is the mean squared error of an event's entries between an event and its
    reconstruction (in [0, 1] where a pixel logit precedes the model). It has no density
    and no samples. With `noise_std` it is the denoising autoencoder of the paper's
    appendix B.

    Args:
        event_shape: `(H, W, C)` or `(n,)`.
        latent_dim: Number of latents d, at least 1.
        **kwargs: `encoder`, `decoder` and the arguments of `EventModel`. The encoder
            returns features, the decoder the location of events.

    Raises:
        ValueError: If an argument is out of its range or a network's output has the
            wrong shape.

    Example:
        >>> model = Autoencoder((28, 28, 1), latent_dim=32, noise_std=0.5)
        >>> model.compile(keras.optimizers.Adam(1e-4))
        >>> history = model.fit(images, batch_size=128, epochs=1)  # uint8 images
        >>> model.reconstruct(model.corrupt(images[:4])).shape
        TensorShape([4, 28, 28, 1])

    Reference: Vincent et al., "Extracting and composing robust features with denoising
    autoencoders", ICML 2008.
    """

    _encoder_outputs: ClassVar[int] = 1

    def __init__(self, event_shape: Sequence[int], latent_dim: int, **kwargs):
        if kwargs.pop("decoder_scale", "fixed") != "fixed":
            raise ValueError(
                "An Autoencoder has no decoder_scale but 'fixed', since its decoder "
                "returns a location alone; leave the argument out."
            )
        super().__init__(event_shape, latent_dim, decoder_scale="fixed", **kwargs)
        self._complete()

    def _encoder_of(self, network: Any) -> keras.layers.Layer:
        return PointEncoder(
            network,
            self.event_shape,
            self.latent_dim,
            name="encoder",
            dtype=self.events.dtype,
        )

    def objective_logs(self, loss: Any) -> dict[str, Any]:
        """The loss is the mean squared error, and says so."""
        return {"mean_squared_error": loss}

    def _objective_of(self, inputs, targets, seed):
        """Negative mean squared error of each event, `[batch]`."""
        y = self.preprocessing.bijector.inverse(tf.identity(inputs))
        error = self._decode(self._encode(y), None) - targets
        return -tf.reduce_mean(self._flat(error**2), axis=-1)

    def _adapt_flows(self, y):
        # No flow stands between the networks.
        pass

    def _encode(self, y):
        return self.encoder(y)

    def _decode(self, z, deviations):
        return self.preprocessing.bijector.forward(self.decoder(z)[0])
