"""Linear maps whose output moves equally far in a step of Adam, however many inputs."""

import keras

__all__ = ["REFERENCE_INPUTS", "EqualizedDense", "input_gain"]

REFERENCE_INPUTS = 256
"""A map from more inputs than this learns as fast as one from so many."""


def input_gain(num_inputs: int, reference_inputs: int = REFERENCE_INPUTS) -> float:
    """Returns the factor on the inputs of a linear map, min(1, reference / N).

    Args:
        num_inputs: N, at least 1.
        reference_inputs: Below so many, the factor is 1.
    """
    return min(1.0, reference_inputs / num_inputs)


@keras.saving.register_keras_serializable(package="aef_tfp")
class EqualizedDense(keras.layers.Dense):
    """Dense layer whose learning rate does not grow with its number of inputs N.

        y = activation(gain * x W + b),  gain = min(1, reference_inputs / N)

    A step of Adam moves each weight by the learning rate, whatever the gradient. So an
    output of Keras's layer moves by up to N times that: for images of 64 x 64 x 3 by a
    multiple of its own spread in the very first step. Here it moves by at most
    `reference_inputs` times the learning rate for any N. W starts 1 / gain times as
    wide as the initializer says, so that outputs start as those of Keras's layer.

    To put in weights of a `keras.layers.Dense`, divide its kernel by `gain`.

    Args:
        units: Number of outputs.
        reference_inputs: How many inputs it learns as fast as, at least 1. 256 suits
            pixels and other inputs of standard deviation 1, more suit the features of a
            rectifier, which are mostly smaller.
        **kwargs: As in `keras.layers.Dense`.

    Raises:
        ValueError: If `reference_inputs` is below 1.

    Example:
        >>> layer = EqualizedDense(32)
        >>> layer(tf.zeros([8, 64 * 64 * 3])).shape
        TensorShape([8, 32])

    References: Karras et al. (arXiv:1710.10196) on equalized learning rates; Yang et
    al. (arXiv:2203.03466) on why Adam's has to fall as 1 / N.
    """

    def __init__(self, units: int, reference_inputs: int = REFERENCE_INPUTS, **kwargs):
        if reference_inputs < 1:
            raise ValueError(
                f"reference_inputs must be at least 1, got {reference_inputs!r}."
            )
        super().__init__(units, **kwargs)
        self.reference_inputs = reference_inputs

    def build(self, input_shape):
        """Creates kernel `[N, units]` and bias `[units]`."""
        super().build(input_shape)
        # A kernel of few bits begins at zero, and comes out of a file. What Keras calls
        # `kernel` is a sum with LoRA, and no variable.
        if self.quantization_mode in (None, "float8"):
            self._kernel.assign(self._kernel / self.gain)

    @property
    def gain(self) -> float:
        """The factor on the inputs; known once the layer is built."""
        return input_gain(self.input_spec.axes[-1], self.reference_inputs)

    def call(self, inputs, training=None):
        """Maps `[..., N]` to `[..., units]`."""
        return super().call(inputs * self.gain, training=training)

    def quantized_call(self, inputs, training=None):
        """Maps `[..., N]` to `[..., units]` by a quantized kernel."""
        return super().quantized_call(inputs * self.gain, training=training)

    def get_config(self):
        """Returns the constructor's arguments."""
        return {**super().get_config(), "reference_inputs": self.reference_inputs}
