"""A second validation number: an estimate of log p(x)."""

from typing import Any

import keras
import tensorflow as tf

from aef_tfp.distribution import is_chief, share_json

__all__ = ["MarginalBits"]

# On the digits with 8 latents, over 3,000 iterations, the Laplace proposal with these
# stays within 0.015 bits of 128 samples of all validation images, and takes 0.3 s. The
# encoder proposal, six times as fast, rose from 2.5 to 3.2 bits for an AEF while those
# fell from 2.4 to 2.25.
_SAMPLES = 8
_IMAGES = (16, 64)
# A Laplace proposal takes as many passes as there are latents. Of the validation
# interval of 100 steps on the digits it is then an eighth.
_LATENTS = 2048


class MarginalBits(keras.callbacks.Callback):
    """Adds `val_marginal_bits_per_dim` to the logs of each epoch.

    An estimate of -log p(x) by importance sampling, in bits per dimension, for models
    that estimate it (`model.estimates`): the mean over the first validation images, 64
    of them with up to 32 latents and at least 16 with more, by 8 samples of the Laplace
    proposal. Images and noise are the same each time, so that it moves with the model
    alone. It is to choose models by, not to be reported.

    The objective of an expanded AEF, a joint density, falls several times as fast as
    the likelihood rises, and goes on when that has stopped.

    It comes before the callbacks that read it (`Checkpoints`, `History`, `Scalars`).
    The first time takes some seconds more, for the graph.

    Args:
        images: Validation images, as the model takes them: an array.

    Raises:
        TypeError: If they are no array, or the model estimates nothing.
        ValueError: If there is none.
    """

    name = "val_marginal_bits_per_dim"

    def __init__(self, images: Any):
        super().__init__()
        if not hasattr(images, "shape"):
            raise TypeError(
                "MarginalBits takes validation images as an array, got "
                f"{type(images).__name__}; of a data set, take the first batches."
            )
        if not images.shape or not len(images):
            raise ValueError(
                "MarginalBits takes an array of at least one image, got the shape "
                f"{tuple(images.shape)}."
            )
        self.images = images

    def set_model(self, model: keras.Model) -> None:
        """Checks that the model estimates log p(x)."""
        super().set_model(model)
        if not getattr(model, "estimates", False):
            raise TypeError(
                "MarginalBits is for models that estimate log p(x): ExpandedAEF, VAE "
                f"or IWAE, got {type(model).__name__}; watch its validation loss."
            )

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Estimates; of several workers the chief does, and the others hear of it."""
        strategy = self.model.distribute_strategy
        value = self.estimate() if is_chief(strategy) else None
        value = share_json(strategy, value)
        if logs is not None:
            logs[self.name] = value

    def estimate(self) -> float:
        """Returns the estimate for the weights that `fit` validates."""
        model = self.model
        least, most = _IMAGES
        count = max(least, min(most, _LATENTS // model.latent_dim))
        with model.averages.validated():
            log_prob = model.marginal_log_prob(
                self.images[:count], _SAMPLES, proposal="laplace", seed=0
            )
        return float(model.bits_per_dim(tf.reduce_mean(log_prob)))
