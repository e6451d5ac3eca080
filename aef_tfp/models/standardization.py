"""Features of spread 1 over the data, whose averages all images share alike."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from aef_tfp.engine.replicas import summed

__all__ = ["Standardization"]

# Of the averages, per step: they remember about 100 of them, as BatchNormalization's.
_MOMENTUM = 0.99

# A feature of another spread than 1 would be free to escape the noise. Of a variance
# near this it is not, so it must be small.
_EPSILON = 1e-6


class Standardization(keras.layers.Layer):
    """Divides features by moving averages of their spread, in training, too.

        (f - mean) / sqrt(variance + 1e-6)

    The averages are those of f and f^2 over the images of the last steps, each image
    with the same weight: a batch of one moves them by its share, and counts as no
    spread of 0. Replicas sum over all images of the step, so how many they are changes
    nothing. To the gradient, the mean and the spread are functions of f, those of the
    whole batch: h gains nothing from another scale. They do not serve for more than the
    gradient, since the mean of a batch errs by more than a small noise is wide.

    Keras's BatchNormalization with `renorm` does the same with large batches on one
    device, and had this place before. It averages the spread of each batch about its
    own mean, which in small batches is too small, and in a batch of one is 0. Files
    with its weights are read.

    Args:
        size: Number of features.
        dtype: Of the features.
    """

    def __init__(self, size: int, dtype: Any):
        super().__init__(name="standardization", dtype=dtype)
        self.size = size

    def build(self, input_shape):
        """Makes the averages; `size` says how many."""
        shape = (self.size,)
        self.moving_mean = self._average("moving_mean", shape, "zeros")
        self.moving_variance = self._average("moving_variance", shape, "ones")
        # 0 until the first step: what `measure` saw was no step.
        self.images_per_step = self._average("images_per_step", (), "zeros")

    def _average(self, name, shape, initializer):
        return self.add_weight(
            shape=shape, name=name, initializer=initializer, trainable=False
        )

    def call(self, features, training=False):
        """Standardizes features `[batch, size]`; in training, learns from them."""
        mean = tf.convert_to_tensor(self.moving_mean)
        deviation = tf.sqrt(self.moving_variance + _EPSILON)
        if not (training and self.trainable):
            return (features - mean) / deviation
        count = tf.cast(tf.shape(features)[0], features.dtype)
        total, count = summed([tf.reduce_sum(features, axis=0), count])
        count = tf.maximum(count, 1.0)
        batch_mean = total / count
        centered = features - batch_mean
        [total] = summed([tf.reduce_sum(tf.square(centered), axis=0)])
        batch_variance = total / count
        self._learn(
            tf.stop_gradient(batch_mean), tf.stop_gradient(batch_variance), count
        )
        batch_deviation = tf.sqrt(batch_variance + _EPSILON)
        # The value is that of the averages, the gradient that of the batch.
        scale = tf.stop_gradient(batch_deviation) / deviation
        shift = (tf.stop_gradient(batch_mean) - mean) / deviation
        return centered / batch_deviation * scale + shift

    def _learn(self, batch_mean, batch_variance, count):
        former = tf.convert_to_tensor(self.images_per_step)
        former = tf.where(former > 0.0, former, count)
        images = _MOMENTUM * former + (1.0 - _MOMENTUM) * count
        # The share of this batch among all images that the averages remember.
        share = (1.0 - _MOMENTUM) * count / images
        # The averages of f and f^2, without the difference of two large numbers.
        change = batch_mean - self.moving_mean
        variance = self.moving_variance + share * tf.square(change)
        self.moving_variance.assign(variance + share * (batch_variance - variance))
        self.moving_mean.assign(self.moving_mean + share * change)
        self.images_per_step.assign(images)

    def measure(self, features: tf.Tensor) -> None:
        """Takes the spread over features `[n, size]` for what steps will measure."""
        features = tf.cast(features, self.compute_dtype)
        # From one of them on, so that a constant is found exactly.
        mean, variance = tf.nn.moments(features - features[0], axes=[0])
        # One event has no spread, nor have features that are constant.
        self.moving_variance.assign(tf.where(variance > 0.0, variance, 1.0))
        self.moving_mean.assign(mean + features[0])
        self.images_per_step.assign(0.0)

    def load_own_variables(self, store):
        """Reads the averages, also those of a BatchNormalization with `renorm`."""
        if len(store.keys()) == 5:
            # Mean and variance come first. How many images a step had, it did not keep.
            store = {"0": store["0"], "1": store["1"], "2": np.zeros(())}
        super().load_own_variables(store)


# Keras finds the layers of a model in its file by the names of their classes, and files
# of before have a BatchNormalization here.
Standardization.__name__ = keras.layers.BatchNormalization.__name__
