"""MADE, the autoregressive conditioner, with its incremental evaluation."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from aef_tfp.networks.batching import density_dtype, with_flat_batch

__all__ = ["MADE", "MaskedDense"]


@keras.saving.register_keras_serializable(package="aef_tfp")
class MaskedDense(keras.layers.Layer):
    """Dense layer with a fixed mask on its kernel: x -> x (mask * kernel) + bias.

    Args:
        mask: `[inputs, units]`, nonzero where a connection exists.
        kernel_initializer: Keras initializer; it sees the unmasked fan-in.
        bias_initializer: Keras initializer.
        **kwargs: As in every Keras layer.
    """

    def __init__(
        self,
        mask,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.mask = np.asarray(mask, dtype=bool)
        self._mask_is_folded = False
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.bias_initializer = keras.initializers.get(bias_initializer)

    def build(self, input_shape):
        """Creates kernel `[inputs, units]` and bias `[units]`."""
        self.kernel = self.add_weight(
            name="kernel", shape=self.mask.shape, initializer=self.kernel_initializer
        )
        self.bias = self.add_weight(
            name="bias",
            shape=self.mask.shape[1:],
            initializer=self.bias_initializer,
        )

    @property
    def masked_kernel(self) -> tf.Tensor:
        """Kernel with the forbidden connections at zero, `[inputs, units]`."""
        kernel = tf.convert_to_tensor(self.kernel)
        if self._mask_is_folded:
            return kernel
        return kernel * self.mask.astype(self.compute_dtype)

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

    def get_config(self):
        """Returns the constructor's arguments; the mask as nested lists."""
        return {
            **super().get_config(),
            "mask": self.mask.astype(int).tolist(),
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "bias_initializer": keras.initializers.serialize(self.bias_initializer),
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
        **kwargs: As in every Keras layer. The dtype defaults to the policy's *variable*
            dtype: a log-density in half precision is wrong by whole nats.

    Raises:
        ValueError: If a count is below 1 (`num_blocks`: below 0).

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
        **kwargs,
    ):
        super().__init__(dtype=kwargs.pop("dtype", None) or density_dtype(), **kwargs)
        for name, value, least in (
            ("event_size", event_size, 1),
            ("num_parameters", num_parameters, 1),
            ("hidden_units", hidden_units, 1),
            ("num_blocks", num_blocks, 0),
        ):
            if value < least:
                raise ValueError(f"{name} must be at least {least}, got {value!r}.")
        self.event_size = event_size
        self.num_parameters = num_parameters
        self.hidden_units = hidden_units
        self.num_blocks = num_blocks

        inputs = np.arange(1, event_size + 1)
        # With one entry nothing may be seen: all units get degree 0. Fewer units than
        # degrees are spread over all of them; counted from 1, they would hide the last
        # inputs from every unit.
        highest = event_size - 1
        if hidden_units < highest:
            hidden = np.rint(np.linspace(1, highest, hidden_units)).astype(int)
        else:
            counted = np.arange(hidden_units) % max(1, highest)
            hidden = np.sort(counted) + min(1, highest)
        outputs = np.repeat(inputs, num_parameters)
        self.degrees = hidden
        sees_equal = hidden[None, :] >= hidden[:, None]

        def masked(mask, name, **initializers):
            return MaskedDense(mask, name=name, dtype=self.dtype_policy, **initializers)

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
        self.last = masked(outputs[None, :] > hidden[:, None], "last")

    def build(self, input_shape=None):
        """Creates all weights; the input shape is known from `event_size`."""
        self.first.build((None, self.event_size))
        for pair in self.blocks:
            for layer in pair:
                layer.build((None, self.hidden_units))
        self.last.build((None, self.hidden_units))
        self.built = True

    def call(self, x):
        """Maps `[..., d]` to parameters `[..., d, p]`."""
        return with_flat_batch(self._parameters, x, event_ndims=1)

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

        The plain loop evaluates the network d times. Here step i computes only output
        i, then x_i, then the hidden units of degree i from the kept activations of
        lower degrees: about one pass through the network for all of x. Gradients flow
        through the loop, which then keeps its activations for every step.

        Args:
            base: `[..., d]`.
            transform: Elementwise map from (`[n]`, parameters `[n, p]`) to `[n]`.

        Returns:
            x: `[..., d]`.
        """
        return with_flat_batch(
            lambda flat: self._solve_flat(flat, transform), base, event_ndims=1
        )

    def _solve_flat(self, base, transform):
        if not self.built:
            self.build()
        batch_size = tf.shape(base)[0]
        # Activations lie as [units, batch]: the units of one degree are contiguous.
        base_rows = tf.transpose(base)
        starts, group = self._degree_groups()
        first, last = self._rows(self.first), self._rows(self.last)
        blocks = [(self._rows(one), self._rows(two)) for one, two in self.blocks]
        p = self.num_parameters

        def output_parameters(i, hidden):
            return tf.transpose(self._output_rows(last, i * p, p, hidden))

        def body(i, x, kept, hidden):
            x_i = transform(base_rows[i], output_parameters(i, hidden))
            x = _write_rows(x, x_i[None], i)
            start = tf.gather(starts, i)

            def new_units(layer, values):
                return self._output_rows(layer, start, group, values)

            units = new_units(first, x)
            kept = list(kept)
            for k, (one, two) in enumerate(blocks):
                kept[2 * k] = _write_rows(kept[2 * k], tf.nn.relu(units), start)
                inner = tf.nn.relu(new_units(one, kept[2 * k]))
                kept[2 * k + 1] = _write_rows(kept[2 * k + 1], inner, start)
                units = units + new_units(two, kept[2 * k + 1])
            hidden = _write_rows(hidden, units, start)
            return i + 1, x, tuple(kept), hidden

        nothing_seen = tf.zeros([self.hidden_units, batch_size], base.dtype)
        hidden = nothing_seen
        if self.event_size == 1:
            hidden = tf.transpose(self._hidden(tf.zeros_like(base)))
        _, x, _, _ = tf.while_loop(
            lambda i, *_: i < self.event_size,
            body,
            (
                tf.constant(0),
                tf.zeros_like(base_rows),
                (nothing_seen,) * (2 * self.num_blocks),
                hidden,
            ),
            maximum_iterations=self.event_size,
        )
        return tf.transpose(x)

    def _degree_groups(self) -> tuple[np.ndarray, int]:
        """Returns, for each i, where the units of degree i + 1 start; the group size.

        All groups are as long as the longest one, so some windows reach into units of
        higher degree. Those get a preliminary value that no masked kernel lets through,
        and are overwritten at their own step. Windows that would leave the array are
        moved back, over units that then get the value they have.
        """
        wanted = np.arange(1, self.event_size + 1)
        counts = np.searchsorted(self.degrees, wanted, side="right")
        starts = np.searchsorted(self.degrees, wanted, side="left")
        group = max(1, int((counts - starts).max()))
        return np.minimum(starts, self.hidden_units - group).astype(np.int32), group

    @staticmethod
    def _rows(layer: MaskedDense) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns a layer's kernel as `[units, inputs]` and its bias as a column."""
        return (
            tf.transpose(layer.masked_kernel),
            tf.convert_to_tensor(layer.bias)[:, None],
        )

    @staticmethod
    def _output_rows(layer, start, size: int, values: tf.Tensor) -> tf.Tensor:
        """Returns `size` outputs of a layer from `start` on, `[size, batch]`."""
        kernel, bias = layer
        window = tf.slice(kernel, [start, 0], [size, kernel.shape[1]])
        return tf.matmul(window, values) + tf.slice(bias, [start, 0], [size, 1])

    def get_config(self):
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "event_size": self.event_size,
            "num_parameters": self.num_parameters,
            "hidden_units": self.hidden_units,
            "num_blocks": self.num_blocks,
        }


def _write_rows(values: tf.Tensor, rows: tf.Tensor, start) -> tf.Tensor:
    """Returns `values` with `rows` in place of its rows from `start` on."""
    indices = start + tf.range(tf.shape(rows)[0])
    return tf.tensor_scatter_nd_update(values, indices[:, None], rows)
