"""How Keras layers meet tensors with any number of batch axes, and of any length."""

import contextlib
import math
import weakref
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from typing import Any

import keras
import tensorflow as tf

__all__ = [
    "PASS_ENTRIES",
    "build_for_batches",
    "checked_density_dtype",
    "density_dtype",
    "events_per_pass",
    "in_passes",
    "joined",
    "pass_sizes",
    "passes",
    "with_flat_batch",
]

PASS_ENTRIES = 2**23
"""Entries of a network's largest layer in one pass: 32 MB in single precision. On a CPU
a likelihood in passes of 256 MB took half as long again."""


def density_dtype(policy: Any = None) -> str:
    """Returns the dtype of log-densities under a Keras policy, or the present one.

    Under `mixed_bfloat16` that is float32: a log-density over thousands of dimensions
    loses several nats in half precision.
    """
    policy = keras.dtype_policies.get(policy) or keras.config.dtype_policy()
    return policy.variable_dtype


def checked_density_dtype(kind: str, policy: Any = None) -> str:
    """Returns the `density_dtype` of a layer that makes log-densities, after a check.

    Args:
        kind: What the message calls the layer.
        policy: Keras policy; None for the present one.

    Raises:
        ValueError: If it is half precision.
    """
    dtype = density_dtype(policy)
    if dtype in ("float16", "bfloat16"):
        raise ValueError(
            f"{kind} computes log-densities, which need more digits than {dtype} has; "
            "build it with dtype 'float32', 'float64' or 'mixed_bfloat16'."
        )
    return dtype


def build_for_batches(network: Any, event_shape: Sequence[int]) -> None:
    """Builds a network for batches of any length, if it has a `build` of its own.

    Built by its first call, it would take the length of that batch for the only one,
    and a summary would show it.

    Args:
        network: Keras layer or model; one that is built stays as it is.
        event_shape: Shape of one event.
    """
    by_calling = (keras.layers.Layer.build, keras.Model.build)
    if not network.built and type(network).build not in by_calling:
        network.build((None, *event_shape))


def events_per_pass(network: Any, event_shape: Sequence[int]) -> int:
    """Returns how many events go through a network at once in bounded memory.

    Without a gradient, for which all layers would be kept.

    Args:
        network: Keras model from events or to events; one that shows no layers is taken
            for one like the paper's small ones.
        event_shape: Shape of an event.

    Returns:
        At least 1. The largest layer's output takes about 32 MB.
    """
    event_size = math.prod(event_shape)
    largest = _largest_in(network, tuple(event_shape))
    largest = max(largest, event_size) if largest else 16 * event_size
    return max(1, PASS_ENTRIES // largest)


def _largest_in(network: Any, event_shape: tuple[int, ...]) -> int:
    """Entries of the largest output of a network's layers; 0 if it shows none."""
    layers = getattr(network, "layers", ())
    # Models within count by their own layers: what they give out is in those, and in a
    # graph of theirs.
    within = [_largest_in(layer, event_shape) for layer in layers]
    outputs = [
        output
        for layer, size in zip(layers, within, strict=True)
        if not size
        # A layer that was called elsewhere, too, has no one output.
        for output in tf.nest.flatten(getattr(layer, "output", []))
    ]
    if any(None in output.shape[1:] for output in outputs):
        within.append(_largest_of_open(network, outputs, event_shape))
    else:
        within += [math.prod(output.shape[1:]) for output in outputs]
    return max(within, default=0)


# Of networks for any size of images, by the shape of an event.
_LARGEST: MutableMapping[Any, dict[tuple[int, ...], int]] = weakref.WeakKeyDictionary()


def _largest_of_open(
    network: Any, outputs: Sequence[Any], event_shape: tuple[int, ...]
) -> int:
    """Entries of the largest output of a network that leaves sides open."""
    known = _LARGEST.setdefault(network, {})
    if event_shape not in known:
        shapes = [output.shape for output in outputs]
        # A decoder's inputs are no events, and a subclass of a model has none to see:
        # their open sides are taken for all of one.
        with contextlib.suppress(AttributeError, ValueError, TypeError):
            whole = keras.Model(network.inputs, outputs)
            specs = whole.compute_output_spec(keras.KerasTensor((1, *event_shape)))
            shapes = [spec.shape for spec in tf.nest.flatten(specs)]
        known[event_shape] = max(_entries(shape[1:], event_shape) for shape in shapes)
    return known[event_shape]


def _entries(shape: Sequence[int | None], event_shape: Sequence[int]) -> int:
    size = math.prod(side for side in shape if side is not None)
    return size * (math.prod(event_shape) if None in shape else 1)


def pass_sizes(count: int, size: int) -> list[int]:
    """Cuts a count into parts of nearly equal size, `size` at most; at least one part.

    Equal, since a compiled function is compiled for each size anew.
    """
    num_passes = max(1, math.ceil(count / size))
    return [
        (number + 1) * count // num_passes - number * count // num_passes
        for number in range(num_passes)
    ]


def passes(x: tf.Tensor, size: int) -> Iterator[tf.Tensor]:
    """Cuts a tensor along its first axis; without a known length it stays whole."""
    sizes = pass_sizes(x.shape[0] or 0, size)
    start = 0
    for part in sizes:
        yield x if len(sizes) == 1 else x[start : start + part]
        start += part


def in_passes(function: Callable[[tf.Tensor], Any], x: tf.Tensor, size: int) -> Any:
    """Calls a function with so many examples at once; puts the outputs together.

    Args:
        function: Maps `[n, ...]` to a tensor, or a structure of tensors, `[n, ...]`.
        x: `[n, ...]` with any n.
        size: Examples per call, at most.
    """
    return joined([function(part) for part in passes(x, size)])


def joined(outputs: Sequence[Any]) -> Any:
    """Puts the outputs of passes together: tensors, or structures of tensors."""
    if len(outputs) == 1:
        return outputs[0]
    return tf.nest.map_structure(lambda *parts: tf.concat(parts, axis=0), *outputs)


def with_flat_batch(function: Callable[[Any], Any], x: Any, event_ndims: int) -> Any:
    """Calls `function` with exactly one batch axis, and gives the others back.

    TFP calls networks with event-only tensors when it infers shapes, and with several
    batch axes in importance sampling; Keras layers want one batch axis.

    Args:
        function: Maps `[n, *event]` to a tensor, or a structure of tensors, `[n, ...]`.
        x: `[*batch, *event]` with any number of batch axes, none included.
        event_ndims: Number of event axes of `x`.

    Returns:
        The outputs with `*batch` in place of `n`.
    """
    x = tf.convert_to_tensor(x)
    if x.shape.rank == event_ndims + 1:
        return function(x)
    split = x.shape.rank - event_ndims
    batch_shape, event_shape = tf.shape(x)[:split], tf.shape(x)[split:]
    static_batch = x.shape[:split]
    flat = tf.reshape(x, tf.concat([[-1], event_shape], axis=0))
    flat.set_shape([None, *x.shape[split:]])

    def restore(y):
        y_full = tf.reshape(y, tf.concat([batch_shape, tf.shape(y)[1:]], axis=0))
        y_full.set_shape(static_batch.concatenate(y.shape[1:]))
        return y_full

    return tf.nest.map_structure(restore, function(flat))
