"""Solving the recursion of a masked autoregressive network in about one pass."""

import dataclasses
import functools
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import tensorflow as tf

from aef_tfp.networks.gradients import custom_gradient
from aef_tfp.networks.switch import Switch

__all__ = ["Recursion", "compiling_recursions", "sorted_degrees"]

# Vectors that a compiled recursion solves at once. Other numbers are filled up to a
# multiple of it, so that it is compiled once, not for every length of a batch.
_COMPILED_BATCH = 64

_IS_ON = Switch("compiling_recursions")


def compiling_recursions(is_on: bool = True) -> AbstractContextManager[None]:
    """Within it, the loops of recursions are compiled with XLA where they stand.

    For graphs that are not compiled themselves: a loop of many small operations takes
    two to five times as long there. Graphs that leave the process do without, since who
    reads a SavedModel may not have XLA. Their results have first gradients in reverse
    mode, and no others.

    Args:
        is_on: Whether they are.
    """
    return _IS_ON.set(is_on)


def sorted_degrees(event_size: int, hidden_units: int) -> np.ndarray:
    """Returns the degrees of a MADE's hidden units, `[hidden_units]`, ascending.

    Args:
        event_size: Number of entries d.
        hidden_units: Their number.
    """
    # With one entry nothing may be seen: all units get degree 0. Fewer units than
    # degrees are spread over all of them; counted from 1, they would hide the last
    # inputs from every unit.
    highest = event_size - 1
    if hidden_units < highest:
        return np.rint(np.linspace(1, highest, hidden_units)).astype(int)
    counted = np.arange(hidden_units) % max(1, highest)
    return np.sort(counted) + min(1, highest)


@dataclasses.dataclass(frozen=True)
class Recursion:
    """The recursion `x_i = transform(base_i, parameters_i(x_1 ... x_{i-1}))` of a MADE.

    The plain loop evaluates the network d times. Here step i computes only output i,
    then x_i, then the hidden units of degree i from the kept activations of lower
    degrees: about one pass through the network for all of x. Gradients flow through the
    loop, which then keeps its activations for every step.

    Equal ones share what was compiled, whichever network they belong to.

    Args:
        event_size: Number of entries d.
        num_parameters: Outputs per entry, p.
        hidden_units: Width of the hidden layers.
        num_blocks: Number of residual blocks.
        transform: Elementwise map from (`[n]`, parameters `[n, p]`) to `[n]`; a
            hashable object, which equals another if it maps alike.
    """

    event_size: int
    num_parameters: int
    hidden_units: int
    num_blocks: int
    transform: Callable[[tf.Tensor, tf.Tensor], tf.Tensor]

    def solve(self, base: tf.Tensor, layers: Any, hidden: tf.Tensor) -> tf.Tensor:
        """Returns x, `[n, d]`.

        Args:
            base: `[n, d]`.
            layers: The masked layers as pairs of kernel `[units, inputs]` and bias
                `[units, 1]`: the first, one pair of layers per block, the last.
            hidden: `[hidden_units, 1]`, the last hidden layer where nothing is seen.
        """
        if not _IS_ON:
            return self._solve(base, layers, hidden)
        solve = _compiled(self)
        count = tf.shape(base)[0]
        batches = -(-count // _COMPILED_BATCH)
        filled = tf.pad(base, [[0, batches * _COMPILED_BATCH - count], [0, 0]])
        x = tf.map_fn(
            lambda batch: solve(batch, layers, hidden),
            tf.reshape(filled, [-1, _COMPILED_BATCH, self.event_size]),
            # One loop of small products keeps one core busy.
            parallel_iterations=8,
        )
        return tf.reshape(x, [-1, self.event_size])[:count]

    def _solve(self, base, layers, hidden):
        may_be_none, count = not base.shape[0], tf.shape(base)[0]
        if may_be_none:
            # TensorFlow updates no rows of nothing.
            base = tf.pad(base, [[0, tf.maximum(0, 1 - count)], [0, 0]])
            base = tf.ensure_shape(base, [None, self.event_size])
        # Activations lie as [units, batch]: the units of one degree are contiguous.
        base_rows = tf.transpose(base)
        starts, group = self._degree_groups()
        first, blocks, last = layers
        p = self.num_parameters

        def body(i, x, kept, hidden):
            parameters = tf.transpose(_output_rows(last, i * p, p, hidden))
            x_i = self.transform(base_rows[i], parameters)
            x = _write_rows(x, x_i[None], i)
            start = tf.gather(starts, i)

            def new_units(layer, values):
                return _output_rows(layer, start, group, values)

            units = new_units(first, x)
            kept = list(kept)
            for k, (one, two) in enumerate(blocks):
                kept[2 * k] = _write_rows(kept[2 * k], tf.nn.relu(units), start)
                inner = tf.nn.relu(new_units(one, kept[2 * k]))
                kept[2 * k + 1] = _write_rows(kept[2 * k + 1], inner, start)
                units = units + new_units(two, kept[2 * k + 1])
            hidden = _write_rows(hidden, units, start)
            return i + 1, x, tuple(kept), hidden

        nothing_seen = tf.zeros([self.hidden_units, tf.shape(base)[0]], base.dtype)
        _, x, _, _ = tf.while_loop(
            lambda i, *_: i < self.event_size,
            body,
            (
                tf.constant(0),
                tf.zeros_like(base_rows),
                (nothing_seen,) * (2 * self.num_blocks),
                nothing_seen + hidden,
            ),
            maximum_iterations=self.event_size,
        )
        x = tf.transpose(x)
        return x[:count] if may_be_none else x

    def _degree_groups(self) -> tuple[np.ndarray, int]:
        """Returns, for each i, where the units of degree i + 1 start; the group size.

        All groups are as long as the longest one, so some windows reach into units of
        higher degree. Those get a preliminary value that no masked kernel lets through,
        and are overwritten at their own step. Windows that would leave the array are
        moved back, over units that then get the value they have.
        """
        degrees = sorted_degrees(self.event_size, self.hidden_units)
        wanted = np.arange(1, self.event_size + 1)
        counts = np.searchsorted(degrees, wanted, side="right")
        starts = np.searchsorted(degrees, wanted, side="left")
        group = max(1, int((counts - starts).max()))
        return np.minimum(starts, self.hidden_units - group).astype(np.int32), group


@functools.lru_cache(maxsize=64)
def _compiled(recursion: Recursion) -> Callable[..., tf.Tensor]:
    """The compiled loop; weights are arguments, so one serves all equal layers."""
    solve = tf.function(recursion._solve, jit_compile=True, autograph=False)

    @functools.partial(tf.function, jit_compile=True, autograph=False)
    def gradients(arguments, upstream):
        with tf.GradientTape() as tape:
            tape.watch(arguments)
            x = recursion._solve(*arguments)
        return tape.gradient(
            x, tf.nest.flatten(arguments), upstream, unconnected_gradients="zero"
        )

    def solve_with_gradient(*arguments):
        # What a loop keeps for its gradient cannot leave a compiled function, so the
        # gradient's own runs the loop once more.
        @custom_gradient
        def solved(*values):
            packed = tf.nest.pack_sequence_as(arguments, values)
            return solve(*packed), lambda upstream: gradients(packed, upstream)

        return solved(*tf.nest.flatten(arguments))

    return solve_with_gradient


def _output_rows(layer, start, size: int, values: tf.Tensor) -> tf.Tensor:
    """Returns `size` outputs of a layer from `start` on, `[size, batch]`."""
    kernel, bias = layer
    window = tf.slice(kernel, [start, 0], [size, kernel.shape[1]])
    return tf.matmul(window, values) + tf.slice(bias, [start, 0], [size, 1])


def _write_rows(values: tf.Tensor, rows: tf.Tensor, start) -> tf.Tensor:
    """Returns `values` with `rows` in place of its rows from `start` on."""
    indices = start + tf.range(tf.shape(rows)[0])
    return tf.tensor_scatter_nd_update(values, indices[:, None], rows)
