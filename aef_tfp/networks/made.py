"""MADE, the autoregressive conditioner, with its incremental evaluation."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from aef_tfp.networks.batching import checked_density_dtype, with_flat_batch
from aef_tfp.networks.counts import checked_count
from aef_tfp.networks.equalized import REFERENCE_INPUTS, input_gain
from aef_tfp.networks.recursion import Recursion, sorted_degrees

__all__ = ["MADE", "MaskedDense"]

# Of the last layer. Flows of several layers multiply what a step makes of their scales:
# with 256 they overflow where the learning rate is ten times too high.
_LAST_REFERENCE_INPUTS = 128


@keras.saving.register_keras_serializable(package="aef_tfp")
class MaskedDense(keras.layers.Layer):
    """Dense layer with a fixed mask on its kernel: x -> gain x (mask * kernel) + bias.

    The gain is that of `EqualizedDense`.

    Args:
        mask: `[inputs, units]`, nonzero where a connection exists.
        kernel_initializer: Keras initializer; it sees the unmasked fan-in.
        bias_initializer: Keras initializer.
        reference_inputs: As in `EqualizedDense`.
        **kwargs: As in every Keras layer.
    """

    def __init__(
        self,
        mask,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        reference_inputs: int = REFERENCE_INPUTS,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.reference_inputs = reference_inputs
        self.mask = np.asarray(mask, dtype=bool)
        self._mask_is_folded = False
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.bias_initializer = keras.initializers.get(bias_initializer)

    def build(self, input_shape):
        """Creates kernel `[inputs, units]` and bias `[units]`."""
        self.kernel = self.add_weight(
            name="kernel", shape=self.mask.shape, initializer=self.kernel_initializer
        )
        self.kernel.assign(self.kernel / self.gain)
        self.bias = self.add_weight(
            name="bias",
            shape=self.mask.shape[1:],
            initializer=self.bias_initializer,
        )

    @property
    def masked_kernel(self) -> tf.Tensor:
        """Gain times kernel, the forbidden connections at zero, `[inputs, units]`."""
        kernel = tf.convert_to_tensor(self.kernel)
        if self._mask_is_folded:
            return kernel
        return kernel * (self.gain * self.mask).astype(self.compute_dtype)

    @property
    def gain(self) -> float:
        """The factor on the inputs, min(1, reference_inputs / inputs)."""
        return input_gain(self.mask.shape[0], self.reference_inputs)

    def fold_mask(self) -> None:
        """Puts the mask into the kernel, for graphs of inference that do without it.

        The layer is no longer trainable: updates would fill forbidden connections.
        """
        self.kernel.assign(self.masked_kernel)
        self._mask_is_folded = True
        self.trainable = False

    def call(self, x):
        """Maps `[..., inputs]` to `[..., units]`."""
        return tf.linalg.matmul(x, self.masked_kernel) + self.bias

    def compute_output_shape(self, input_shape):
        """Returns the input's shape with `units` in place of `inputs`."""
        return (*input_shape[:-1], self.mask.shape[1])

    def get_config(self):
        """Returns the constructor's arguments; the mask as nested lists."""
        return {
            **super().get_config(),
            "mask": self.mask.astype(int).tolist(),
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "bias_initializer": keras.initializers.serialize(self.bias_initializer),
            "reference_inputs": self.reference_inputs,
        }


@keras.saving.register_keras_serializable(package="aef_tfp")
class MADE(keras.layers.Layer):
    """Masked network whose parameters for entry i depend on entries before i only.

    A masked linear layer, residual blocks of (ReLU, masked linear, ReLU, masked
    linear), and a masked linear output (appendix D.2 of the AEF paper). Hidden unit j
    has a degree m(j); it sees inputs 1 ... m(j) and hidden units of at most its degree,
    and output i sees hidden units of degree below i. Degrees 1 ... d - 1 are shared out
    evenly and *sorted*, so that the units of one degree lie side by side; `solve` rests
    on that.

    Args:
        event_size: Number of entries d, at least 1.
        num_parameters: Outputs per entry, p.
        hidden_units: Width of the hidden layers.
        num_blocks: Number of residual blocks.
        initial_parameters: The p values that every entry's outputs start at, whatever
            the input: the last layer's kernel starts at zero. None: it starts as those
            of other layers do.
        **kwargs: As in every Keras layer. Of the policy, or the global one, the
            *variable* dtype counts: a log-density in half precision is wrong by whole
            nats.

    Raises:
        ValueError: If a count is no integer of at least 1 (`num_blocks`: 0), or there
            are not p initial parameters, or that dtype is half precision.

    Example:
        >>> made = MADE(event_size=4)
        >>> made(tf.zeros([8, 4])).shape
        TensorShape([8, 4, 2])

    References: Germain et al. (arXiv:1502.03509); residual blocks as in Durkan et al.
    (arXiv:1906.04032).
    """

    def __init__(
        self,
        event_size: int,
        num_parameters: int = 2,
        hidden_units: int = 256,
        num_blocks: int = 2,
        initial_parameters: Sequence[float] | None = None,
        **kwargs,
    ):
        dtype = checked_density_dtype(type(self).__name__, kwargs.pop("dtype", None))
        super().__init__(dtype=dtype, **kwargs)
        event_size = checked_count("event_size", event_size)
        num_parameters = checked_count("num_parameters", num_parameters)
        hidden_units = checked_count("hidden_units", hidden_units)
        num_blocks = checked_count("num_blocks", num_blocks, least=0)
        if initial_parameters is not None:
            initial_parameters = [float(value) for value in initial_parameters]
            if len(initial_parameters) != num_parameters:
                raise ValueError(
                    f"initial_parameters must be {num_parameters} numbers, got "
                    f"{initial_parameters!r}."
                )
        self.event_size = event_size
        self.num_parameters = num_parameters
        self.hidden_units = hidden_units
        self.num_blocks = num_blocks
        self.initial_parameters = initial_parameters

        inputs = np.arange(1, event_size + 1)
        hidden = sorted_degrees(event_size, hidden_units)
        outputs = np.repeat(inputs, num_parameters)
        self.degrees = hidden
        sees_equal = hidden[None, :] >= hidden[:, None]

        def masked(mask, name, **options):
            return MaskedDense(mask, name=name, dtype=self.dtype_policy, **options)

        self.first = masked(hidden[None, :] >= inputs[:, None], "first")
        self.blocks = []
        for i in range(num_blocks):
            # A block that starts near zero starts the network as a shallow one.
            small = keras.initializers.RandomUniform(-1e-3, 1e-3)
            self.blocks.append(
                (
                    masked(sees_equal, f"block_{i}_first"),
                    masked(sees_equal, f"block_{i}_second", kernel_initializer=small),
                )
            )
        self.last = masked(
            outputs[None, :] > hidden[:, None],
            "last",
            reference_inputs=_LAST_REFERENCE_INPUTS,
        )

    def build(self, input_shape=None):
        """Creates all weights; the input shape is known from `event_size`."""
        self.first.build((None, self.event_size))
        for pair in self.blocks:
            for layer in pair:
                layer.build((None, self.hidden_units))
        self.last.build((None, self.hidden_units))
        if self.initial_parameters is not None:
            self.last.kernel.assign(tf.zeros_like(self.last.kernel))
            self.last.bias.assign(np.tile(self.initial_parameters, self.event_size))

    def call(self, x):
        """Maps `[..., d]` to parameters `[..., d, p]`."""
        return with_flat_batch(self._parameters, x, event_ndims=1)

    def compute_output_shape(self, input_shape):
        """Returns the input's shape with an axis of parameters at the end."""
        return (*input_shape, self.num_parameters)

    def _parameters(self, x):
        return tf.reshape(
            self.last(self._hidden(x)), [-1, self.event_size, self.num_parameters]
        )

    def _hidden(self, x):
        hidden = self.first(x)
        for first, second in self.blocks:
            hidden = hidden + second(tf.nn.relu(first(tf.nn.relu(hidden))))
        return hidden

    def solve(
        self, base: tf.Tensor, transform: Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
    ) -> tf.Tensor:
        """Solves `x_i = transform(base_i, parameters_i(x_1 ... x_{i-1}))` in turn.

        Step i computes only what output i needs anew: about one pass through the
        network for all of x. Gradients flow through the loop, which then keeps its
        activations for every step.

        Args:
            base: `[..., d]`.
            transform: Elementwise map from (`[n]`, parameters `[n, p]`) to `[n]`;
                hashable.

        Returns:
            x: `[..., d]`.
        """
        return with_flat_batch(
            lambda flat: self._solve_flat(flat, transform), base, event_ndims=1
        )

    def _solve_flat(self, base, transform):
        if not self.built:
            self.build()
        recursion = Recursion(
            self.event_size,
            self.num_parameters,
            self.hidden_units,
            self.num_blocks,
            transform,
        )
        layers = (
            self._rows(self.first),
            tuple((self._rows(one), self._rows(two)) for one, two in self.blocks),
            self._rows(self.last),
        )
        hidden = tf.zeros([self.hidden_units, 1], base.dtype)
        if self.event_size == 1:
            hidden = tf.transpose(self._hidden(tf.zeros([1, 1], base.dtype)))
        return recursion.solve(base, layers, hidden)

    @staticmethod
    def _rows(layer: MaskedDense) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns a layer's kernel as `[units, inputs]` and its bias as a column."""
        return (
            tf.transpose(layer.masked_kernel),
            tf.convert_to_tensor(layer.bias)[:, None],
        )

    def get_config(self):
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "event_size": self.event_size,
            "num_parameters": self.num_parameters,
            "hidden_units": self.hidden_units,
            "num_blocks": self.num_blocks,
            "initial_parameters": self.initial_parameters,
        }
