"""Flows of one step without a network."""

import keras
import numpy as np
import tensorflow as tf
from tensorflow_probability import bijectors as tfb

from aef_tfp.bijectors import FeatureAffine, PixelLogit
from aef_tfp.flows.base import Flow, are_kept
from aef_tfp.networks.counts import checked_count

__all__ = ["ActNorm", "Identity", "PixelSquash", "Reverse"]


@keras.saving.register_keras_serializable(package="aef_tfp")
class ActNorm(Flow):
    """Activation normalization, one scale and shift per entry of the last axis.

    inverse: x = exp(log_scale) * y + shift. The last axis holds the features of a
    vector `[..., n]` or the channels of an image `[..., H, W, C]`. `adapt_inverse` sets
    mean 0 and standard deviation 1 over all the other axes; until then the layer is the
    identity.

    Args:
        size: Size of the last axis.
        **kwargs: As in every Keras layer.

    Raises:
        ValueError: If `size` is no integer of at least 1.

    Reference: Kingma and Dhariwal, Glow (arXiv:1807.03039).
    """

    def __init__(self, size: int, **kwargs):
        super().__init__(**kwargs)
        self.size = size = checked_count("size", size)
        self.log_scale = self.add_weight(
            name="log_scale", shape=(size,), initializer="zeros"
        )
        self.shift = self.add_weight(name="shift", shape=(size,), initializer="zeros")
        self.built = True

    @property
    def bijector(self) -> tfb.Bijector:
        """Affine bijector of the last axis, which reads the weights in each call."""
        return FeatureAffine(lambda: (self.log_scale, self.shift), name="act_norm")

    @property
    def is_set(self) -> bool:
        """Whether it is anything else than the identity that it starts as."""
        return bool(np.any(self.log_scale.numpy()) or np.any(self.shift.numpy()))

    def adapt_inverse(self, y: tf.Tensor) -> tf.Tensor:
        """Normalizes `inverse(y)` and returns it."""
        if not are_kept(self.is_set):
            mean, std = self._moments(y)
            self.log_scale.assign(-tf.math.log(std))
            self.shift.assign(-mean / std)
        return self.bijector.inverse(tf.identity(y))

    def adapt_forward(self, x: tf.Tensor) -> tf.Tensor:
        """Normalizes `forward(x)` and returns it."""
        if not are_kept(self.is_set):
            mean, std = self._moments(x)
            self.log_scale.assign(tf.math.log(std))
            self.shift.assign(mean)
        return self.bijector.forward(tf.identity(x))

    def _moments(self, values):
        flat = tf.reshape(values, [-1, self.size])
        if flat.shape[0] == 0:
            raise ValueError(
                f"{self.name} is initialized from one example or more, got the shape "
                f"{values.shape.as_list()}."
            )
        # From one of them on, so that a constant is found exactly.
        apart = flat - flat[0]
        centre = tf.reduce_mean(apart, axis=0)
        mean, apart = flat[0] + centre, apart - centre
        # In units in which no square is too small, or too large.
        largest = tf.reduce_max(tf.abs(apart), axis=0)
        parts = tf.math.divide_no_nan(apart, largest)
        std = largest * tf.sqrt(tf.reduce_mean(parts**2, axis=0))
        # A constant feature has no scale to normalize, and differs by rounding alone.
        rounding = 10.0 * np.finfo(std.dtype.as_numpy_dtype).eps * tf.abs(mean)
        return mean, tf.where(std > rounding, std, tf.ones_like(std))

    def get_config(self):
        """Returns the constructor's arguments."""
        return {**super().get_config(), "size": self.size}


@keras.saving.register_keras_serializable(package="aef_tfp")
class Identity(Flow):
    """The flow that does nothing."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.built = True

    @property
    def bijector(self) -> tfb.Bijector:
        """TFP's identity."""
        return tfb.Identity()


@keras.saving.register_keras_serializable(package="aef_tfp")
class PixelSquash(Flow):
    """Flow without weights from real numbers to pixel values; see `PixelLogit`.

    Args:
        logit_lambda: Lambda of eq. 19, in [0, 0.5).
        **kwargs: As in every Keras layer.
    """

    def __init__(self, logit_lambda: float = 1e-6, **kwargs):
        super().__init__(**kwargs)
        self.logit_lambda = logit_lambda
        self._bijector = PixelLogit(logit_lambda)
        self.built = True

    @property
    def bijector(self) -> PixelLogit:
        """The logit of eq. 19, inverted."""
        return self._bijector

    def get_config(self):
        """Returns the constructor's arguments."""
        return {**super().get_config(), "logit_lambda": self.logit_lambda}


@keras.saving.register_keras_serializable(package="aef_tfp")
class Reverse(Flow):
    """Reverses the order of a vector's entries.

    Args:
        event_size: Number of entries.
        **kwargs: As in every Keras layer.

    Raises:
        ValueError: If `event_size` is no integer of at least 1.
    """

    def __init__(self, event_size: int, **kwargs):
        super().__init__(**kwargs)
        self.event_size = checked_count("event_size", event_size)
        self.built = True

    @property
    def bijector(self) -> tfb.Bijector:
        """A permutation."""
        return tfb.Permute(np.arange(self.event_size, dtype=np.int32)[::-1])

    def get_config(self):
        """Returns the constructor's arguments."""
        return {**super().get_config(), "event_size": self.event_size}
