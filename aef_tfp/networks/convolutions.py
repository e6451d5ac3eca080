"""Keras's convolutions and transposed ones, in less time on a CPU."""

from collections.abc import Callable
from contextlib import AbstractContextManager

import keras
import numpy as np
import tensorflow as tf

from aef_tfp.networks.gradients import custom_gradient
from aef_tfp.networks.switch import Switch

__all__ = ["Conv2D", "Conv2DTranspose", "arranging_for_xla"]

# With fewer channels than this, a product by patches takes the place of a convolution.
_MANY_CHANNELS = 16

_FOR_XLA = Switch("arranging_for_xla")


def arranging_for_xla(is_on: bool = True) -> AbstractContextManager[None]:
    """Within it, convolutions are written in the way that XLA makes fastest on a CPU.

    For the body of a `tf.function` with `jit_compile=True`; elsewhere it costs time.
    Results change by rounding alone.

    Args:
        is_on: Whether they are.
    """
    return _FOR_XLA.set(is_on)


@keras.saving.register_keras_serializable(package="aef_tfp")
class Conv2D(keras.layers.Conv2D):
    """Keras's layer, faster in compiled steps on a CPU.

    Within `arranging_for_xla`:

    - A kernel of 1 x 1 with strides of 1 is a matrix product, and so are its gradients.
    - With strides of 2 and padding "same" on sides of even length, the derivative by
      the image goes the way of `Conv2DTranspose`, and an image of few channels is
      convolved by a product with its patches.

    Everything else is left to Keras, and the arguments are those of Keras's layer.

    Example:
        >>> layer = Conv2D(64, 3, strides=2, padding="same")
        >>> layer(tf.zeros([8, 28, 28, 1])).shape
        TensorShape([8, 14, 14, 64])
    """

    def call(self, inputs):
        """Maps `[batch, height, width, channels]` to the shape that Keras's would."""
        if not (_FOR_XLA and self.groups == 1):
            return super().call(inputs)
        kernel = tf.convert_to_tensor(self.kernel)
        if _is_pointwise(self):
            return _finished(self, _product(inputs, kernel))
        sides_are_even = all(side and side % 2 == 0 for side in inputs.shape[1:3])
        if _strides_by_2(self) and sides_are_even:
            return _finished(self, _halved(inputs, kernel))
        return super().call(inputs)


@keras.saving.register_keras_serializable(package="aef_tfp")
class Conv2DTranspose(keras.layers.Conv2DTranspose):
    """Keras's layer, faster on a CPU where it doubles an image.

    In a transposed convolution of stride 2, every other row and column of the result
    sees every other row and column of the kernel. So the result is four convolutions
    woven into each other, for a kernel of 4 x 4

        y[2 i + a, 2 j + b] = conv(x, kernel[3 - a :: -2, 3 - b :: -2])[i, j]

    They took a third of the time of TensorFlow's transposed convolution with such a
    kernel, and three quarters to half of XLA's. That is done with padding "same" and
    kernels of 4 x 4 or more, and within `arranging_for_xla` with smaller ones, too;
    there, an image of few channels is summed from its patches instead. Everything else
    is left to Keras, and the arguments are those of Keras's layer.

    Example:
        >>> layer = Conv2DTranspose(64, 4, strides=2, padding="same")
        >>> layer(tf.zeros([8, 7, 7, 128])).shape
        TensorShape([8, 14, 14, 64])
    """

    def call(self, inputs):
        """Maps `[batch, height, width, channels]` to twice the height and width."""
        is_faster = _FOR_XLA or (
            min(self.kernel_size) >= 4 and self.filters >= _MANY_CHANNELS
        )
        if not (is_faster and _strides_by_2(self) and self.output_padding is None):
            return super().call(inputs)
        return _finished(self, _doubled(inputs, tf.convert_to_tensor(self.kernel)))


def _is_pointwise(layer) -> bool:
    return layer.kernel_size == layer.strides == (1, 1) and _can_be_arranged(layer)


def _strides_by_2(layer) -> bool:
    return (
        min(layer.kernel_size) >= 2
        and layer.strides == (2, 2)
        and layer.padding == "same"
        and _can_be_arranged(layer)
    )


def _can_be_arranged(layer) -> bool:
    return (
        layer.dilation_rate == (1, 1)
        and layer.data_format == "channels_last"
        and not tf.config.list_logical_devices("GPU")
    )


def _finished(layer, outputs: tf.Tensor) -> tf.Tensor:
    if layer.use_bias:
        outputs += tf.convert_to_tensor(layer.bias)
    return outputs if layer.activation is None else layer.activation(outputs)


def _product(images, kernel):
    """The convolution by a kernel of 1 x 1."""
    outputs = tf.linalg.matmul(_as_matrix(images), _as_matrix(kernel))
    return tf.reshape(outputs, [-1, *_sides(images), kernel.shape[3]])


# Each is the other's derivative, so that derivatives of any order take the same ways.
# Shapes: large `[batch, 2 n, 2 m, f]`, small `[batch, n, m, c]`, kernel `[h, w, f, c]`.


@custom_gradient
def _doubled(small, kernel):
    """The transposed convolution, from small to large."""

    def gradient(upstream):
        return _halved(upstream, kernel), _kernel_gradient(upstream, small, kernel)

    if kernel.shape[2] < _MANY_CHANNELS:
        return _sum_of_patches(small, kernel), gradient

    def part(a, b):
        (rows, above_below), (columns, beside) = _phases(kernel, a, b)
        taps = tf.transpose(kernel[rows, columns], [0, 1, 3, 2])
        padding = [[0, 0], above_below, beside, [0, 0]]
        return tf.nn.conv2d(small, taps, strides=1, padding=padding)

    return _woven(part), gradient


@custom_gradient
def _halved(large, kernel):
    """The convolution, from large to small."""

    def gradient(upstream):
        return _doubled(upstream, kernel), _kernel_gradient(large, upstream, kernel)

    if kernel.shape[2] >= _MANY_CHANNELS:
        return tf.nn.conv2d(large, kernel, strides=2, padding="SAME"), gradient
    height, width = _sides(large)
    small = tf.linalg.matmul(_patches(large, kernel), _as_matrix(kernel))
    shape = [-1, height // 2, width // 2, kernel.shape[3]]
    return tf.reshape(small, shape), gradient


def _kernel_gradient(large, small, kernel):
    """The derivative by the kernel of the sum of small * _halved(large)."""
    if kernel.shape[2] < _MANY_CHANNELS:
        product = tf.linalg.matmul(
            _patches(large, kernel), _as_matrix(small), transpose_a=True
        )
        return tf.reshape(product, kernel.shape)
    return tf.raw_ops.Conv2DBackpropFilter(
        input=large,
        filter_sizes=kernel.shape,
        out_backprop=small,
        strides=[1, 2, 2, 1],
        padding="SAME",
    )


def _as_matrix(x: tf.Tensor) -> tf.Tensor:
    return tf.reshape(x, [-1, x.shape[-1]])


def _sides(images: tf.Tensor) -> tuple:
    return tuple(images.shape[i] or tf.shape(images)[i] for i in (1, 2))


def _patches(large, kernel):
    """What each entry of the small image sees, `[batch * n * m, h * w * f]`."""
    height, width = _sides(large)
    before = [(size - 2) // 2 for size in kernel.shape[:2]]
    # More than is needed behind, so that every slice has the same length.
    behind = kernel.shape[:2]
    padding = list(zip(before, behind, strict=True))
    padded = tf.pad(large, [[0, 0], *padding, [0, 0]])
    seen = [
        padded[:, p : p + height : 2, q : q + width : 2]
        for p in range(kernel.shape[0])
        for q in range(kernel.shape[1])
    ]
    return tf.reshape(tf.stack(seen, axis=3), [-1, np.prod(kernel.shape[:3])])


def _sum_of_patches(small, kernel):
    """The transposed convolution as one product and a sum of shifted images."""
    product = tf.linalg.matmul(_as_matrix(small), _as_matrix(kernel), transpose_b=True)
    patches = tf.reshape(product, [-1, *_sides(small), *kernel.shape[:3]])

    def part(a, b):
        (rows, above_below), (columns, beside) = _phases(kernel, a, b)
        return sum(
            _shifted(patches[:, :, :, p, q], i - above_below[0], j - beside[0])
            for i, p in enumerate(range(kernel.shape[0])[rows])
            for j, q in enumerate(range(kernel.shape[1])[columns])
        )

    return _woven(part)


def _shifted(images, down, right):
    """Entry [i + down, j + right] at [i, j], and 0 from outside."""
    shifts = (down, right)
    rows, columns = (slice(max(n, 0), min(n, 0) or None) for n in shifts)
    padding = [[max(-n, 0), max(n, 0)] for n in shifts]
    return tf.pad(images[:, rows, columns], [[0, 0], *padding, [0, 0]])


def _phases(kernel, a: int, b: int):
    """Which taps the rows 2 i + a and columns 2 j + b of the large image see.

    Returns:
        For rows and columns, the kernel's slice in the order of the small image's rows
        i - before, ..., i + behind, and [before, behind].
    """
    return _phase(kernel.shape[0], a), _phase(kernel.shape[1], b)


def _phase(size: int, parity: int) -> tuple[slice, list[int]]:
    # Row 2 i + parity of the large image is tap t of row j of the small one where
    # 2 i + parity = 2 j + t - (size - 2) // 2.
    middle = parity + (size - 2) // 2
    first = middle % 2
    last = first + 2 * ((size - 1 - first) // 2)
    return slice(last, None, -2), [(last - middle) // 2, (middle - first) // 2]


def _woven(part: Callable[[int, int], tf.Tensor]) -> tf.Tensor:
    """The image with part(a, b) `[batch, n, m, f]` at the places [2 i + a, 2 j + b]."""
    rows = [tf.stack([part(a, 0), part(a, 1)], axis=3) for a in (0, 1)]
    woven = tf.stack(rows, axis=2)
    height, width = _sides(rows[0])
    return tf.reshape(woven, [-1, 2 * height, 2 * width, woven.shape[-1]])
