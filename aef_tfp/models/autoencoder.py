"""The deterministic baseline: an autoencoder trained by least squares."""

from collections.abc import Sequence
from typing import Any, ClassVar

import keras
import tensorflow as tf

from aef_tfp.models.autoencoding import Autoencoding
from aef_tfp.models.event_model import EventModel

__all__ = ["Autoencoder"]


@keras.saving.register_keras_serializable(package="aef_tfp")
class Autoencoder(Autoencoding, EventModel):
    """Deterministic autoencoder on the same networks, trained by least squares.

    The loss is the mean squared error of an event's entries between an event and its
    reconstruction (in [0, 1] where a pixel logit precedes the model). It has no density
    and no samples. With `noise_std` it is the denoising autoencoder of the paper's
    appendix B.

    Args:
        event_shape: Shape of one event: `(H, W, C)` of images, `(n,)` of vectors.
        latent_dim: Number of latents d, at least 1.
        encoder: Keras layer or model from events to features; `"conv"` (the paper's
            small network), `"residual"` (its large one), `"dense"`, or None for the
            first on images and the last on vectors.
        decoder: Keras layer or model from latents to the location of events; or a name
            as for `encoder`.
        num_levels: Number of values of integer data; `"auto"` means 256 for images.
            None: the data are continuous.
        logit_lambda: Lambda of the pixel logit (eq. 19), in [0, 0.5); `"auto"` means
            1e-6 for images of one channel, 0.05 for more, None for vectors. None: the
            data are any real numbers, and noisy ones leave [0, 1].
        noise_std: Standard deviation of the noise on training events (denoising,
            appendix B), at least 0.
        denoising_target: What is reconstructed: `"noisy"` events, as in the
            paper, or `"clean"` ones, of which the encoder sees the noisy ones.
        seed: Seed of all noise of `fit` and `evaluate`, from 0 to 2**64 - 1.
        name: Name of the model.
        dtype: Keras's policy: `"float32"`, `"float64"`, or `"mixed_bfloat16"` for the
            networks, with densities in float32. None: Keras's present one.

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

    reconstructs_only: ClassVar[bool] = True

    def __init__(
        self,
        event_shape: Sequence[int],
        latent_dim: int,
        *,
        encoder: Any = None,
        decoder: Any = None,
        num_levels: Any = "auto",
        logit_lambda: Any = "auto",
        noise_std: float = 0.0,
        denoising_target: str = "noisy",
        seed: int = 0,
        name: str | None = None,
        dtype: Any = None,
    ):
        super().__init__(
            event_shape,
            num_levels=num_levels,
            logit_lambda=logit_lambda,
            noise_std=noise_std,
            denoising_target=denoising_target,
            seed=seed,
            name=name,
            dtype=dtype,
        )
        self._make_networks(
            latent_dim, encoder, decoder, "fixed", None, encoder_outputs=1
        )
        self._complete()

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """Rebuilds the model; weights come from the file."""
        # Older files have arguments that had one value only.
        known = {**config}
        for name in ("decoder_scale", "initial_raw_scale"):
            known.pop(name, None)
        return super().from_config(known, custom_objects)

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
