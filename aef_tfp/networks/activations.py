"""Activations whose gradient is written out."""

import math

import tensorflow as tf

from aef_tfp.networks.gradients import custom_gradient

__all__ = ["gelu"]


@custom_gradient
def gelu(x: tf.Tensor) -> tf.Tensor:
    """Returns x Phi(x) with the normal distribution function Phi, entry by entry.

    As `keras.activations.gelu(x, approximate=False)`. Its gradient is written as

        d gelu / dx = Phi(x) + x phi(x)

    with the normal density phi, where TensorFlow's goes back through each operation of
    the formula. It can be differentiated again.
    """

    def gradient(upstream):
        density = tf.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)
        return upstream * (_distribution(x) + x * density)

    return x * _distribution(x), gradient


def _distribution(x):
    return 0.5 * (1 + tf.math.erf(x * math.sqrt(0.5)))
