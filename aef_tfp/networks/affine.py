"""Affine maps of a large batch, evaluated through a small one."""

import functools
import math

import keras
import tensorflow as tf

__all__ = ["AffineSequential"]

# Fewer vectors than so many times the d + 1 points go through the layers themselves: a
# product is not free.
_LEAST_GAIN = 1.5

_HALF_PRECISION = ("bfloat16", "float16")

# Layers that are affine, unless they have an activation.
_AFFINE = (
    keras.layers.AveragePooling2D,
    keras.layers.Conv2D,
    keras.layers.Conv2DTranspose,
    keras.layers.Cropping2D,
    keras.layers.Dense,
    keras.layers.Flatten,
    keras.layers.InputLayer,
    keras.layers.Permute,
    keras.layers.Reshape,
    keras.layers.ZeroPadding2D,
)


@keras.saving.register_keras_serializable(package="aef_tfp")
class AffineSequential(keras.Sequential):
    """Layers that are one affine map, with less arithmetic for many vectors.

    An affine map is known by its values at d + 1 points, the origin and the unit
    vectors e_1 ... e_d. Every z is an affine combination of them, so

        A(z) = (1 - sum_i z_i) A(0) + sum_i z_i A(e_i)

    and the layers see d + 1 vectors in place of n; a matrix product does the rest.
    Where a decoder begins with a linear layer without activation and a transposed
    convolution, as the paper's small one does, that divides the arithmetic of the
    convolution by n / (d + 1), forward and backward. Values and derivatives change by
    rounding alone. Small batches go through the layers as in every Sequential model,
    and so does half precision, where the combinations would lose digits.

    The arguments are those of `keras.Sequential`. The layers are `keras.Input([d])`,
    then affine ones of `keras.layers` without activations: dense, convolutions, average
    pooling, and those that move entries.

    Raises:
        ValueError: If a layer has an activation, or is of another kind, or the input is
            no vector.

    Example:
        >>> first = AffineSequential(
        ...     [
        ...         keras.Input([2]),
        ...         keras.layers.Dense(7 * 7 * 32),
        ...         keras.layers.Reshape([7, 7, 32]),
        ...         keras.layers.Conv2DTranspose(16, 4, strides=2, padding="same"),
        ...     ]
        ... )
        >>> first(tf.zeros([128, 2])).shape
        TensorShape([128, 14, 14, 16])
    """

    def add(self, layer, rebuild=True):
        """Adds a layer at the end."""
        # Either a layer of inputs, or what keras.Input returns.
        shape = getattr(layer, "batch_shape", getattr(layer, "shape", None))
        if shape is not None and len(shape) != 2:
            raise ValueError(
                "AffineSequential maps vectors, keras.Input([d]), but its input has "
                f"the shape {tuple(shape[1:])}; reshape it before."
            )
        activation = getattr(layer, "activation", None)
        if isinstance(layer, keras.layers.Layer) and not isinstance(layer, _AFFINE):
            raise ValueError(
                f"AffineSequential takes affine layers of keras.layers, got "
                f"{layer.name!r} of type {type(layer).__name__}; let it follow as a "
                "layer of its own."
            )
        if activation not in (None, keras.activations.linear):
            name = getattr(activation, "__name__", activation)
            raise ValueError(
                f"AffineSequential takes layers without activation, but {layer.name!r} "
                f"has {name!r}; let it follow as a layer of its own."
            )
        if getattr(layer, "activity_regularizer", None) is not None:
            raise ValueError(
                f"AffineSequential takes layers without activity_regularizer, but "
                f"{layer.name!r} has one, which would see other vectors than those of "
                "the batch; let it follow as a layer of its own."
            )
        super().add(layer, rebuild=rebuild)

    def call(self, inputs, training=None, mask=None):
        """Maps `[n, d]` to `[n, ...]`."""
        layers = functools.partial(super().call, training=training, mask=mask)
        size, count = inputs.shape[-1], inputs.shape[0]
        least = int(_LEAST_GAIN * (size + 1))
        if (count is not None and count <= least) or self._is_in_half_precision:
            return layers(inputs)
        points = tf.eye(size + 1, dtype=inputs.dtype)[:, 1:]
        weights = tf.concat(
            [1.0 - tf.reduce_sum(inputs, axis=1, keepdims=True), inputs], axis=1
        )
        if count is not None:
            return _combined(weights, layers(points))
        # Either all points and no inputs, or the reverse. Not by tf.cond: XLA has no
        # second derivatives of one whose branches differ in shape.
        count = tf.shape(inputs)[0]
        num_points = tf.where(count > least, size + 1, 0)
        num_inputs = tf.where(count > least, 0, count)
        both = tf.concat([points[:num_points], inputs[:num_inputs]], axis=0)
        values = layers(both)
        weights = weights[: count - num_inputs, :num_points]
        return tf.concat(
            [_combined(weights, values[:num_points]), values[num_points:]], axis=0
        )

    @property
    def _is_in_half_precision(self) -> bool:
        return any(layer.compute_dtype in _HALF_PRECISION for layer in self.layers)


def _combined(weights: tf.Tensor, values: tf.Tensor) -> tf.Tensor:
    """Sums values `[m, *event]` by weights `[n, m]` to `[n, *event]`."""
    event_shape = values.shape[1:]
    flat = tf.reshape(values, [tf.shape(values)[0], math.prod(event_shape)])
    # Not a matmul, which vectorized maps make a wrong shape of where it sums nothing.
    sums = tf.einsum("nm,me->ne", tf.cast(weights, flat.dtype), flat)
    return tf.reshape(sums, [tf.shape(weights)[0], *event_shape])
