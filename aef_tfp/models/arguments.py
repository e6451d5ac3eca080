"""Checks of arguments, and noise from seeds."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

__all__ = [
    "check_positive_scale",
    "checked_count",
    "checked_event_shape",
    "fold_seed",
    "normal_noise",
    "normal_of_bits",
    "shape_text",
    "stateless_seed",
    "uniform_noise",
]

# TensorFlow's default depends on the device and on XLA: the same seed would give other
# noise.
_NOISE_ALGORITHM = "philox"


def checked_event_shape(event_shape: Sequence[int]) -> tuple[int, ...]:
    """Returns an event shape after a check.

    Raises:
        ValueError: If it is neither `(H, W, C)` nor `(n,)` with sides of at least 1.
    """
    shape = tuple(event_shape)
    if len(shape) not in (1, 3) or not all(
        isinstance(side, (int, np.integer)) and side >= 1 for side in shape
    ):
        raise ValueError(
            "event_shape must be (height, width, channels) or (n,) with sides of at "
            f"least 1, got {event_shape!r}."
        )
    return tuple(map(int, shape))


def checked_count(name: str, value: Any, least: int = 1) -> int:
    """Returns an integer argument after a check.

    Raises:
        ValueError: If `value` is not an integer of at least `least`.
    """
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise ValueError(f"{name} must be an integer, got {value!r}.")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value!r}.")
    return int(value)


def stateless_seed(seed: int | None) -> tf.Tensor:
    """Returns the `[2]` seed of TensorFlow's stateless operations.

    Args:
        seed: Any integer of 64 bits; None draws one from NumPy's global generator,
            which `keras.utils.set_random_seed` seeds.
    """
    if seed is None:
        seed = int(np.random.randint(2**63))
    low, high = seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF
    return tf.constant(np.array([low, high], np.uint32).view(np.int32))


def fold_seed(seed: tf.Tensor, number: Any) -> tf.Tensor:
    """Returns the `[2]` seed of one of many streams of noise under a seed.

    Args:
        seed: Stateless seed, `[2]` int32.
        number: Which stream: an integer or a scalar integer tensor.
    """
    return tf.random.experimental.stateless_fold_in(
        seed, tf.cast(number, tf.int64), alg=_NOISE_ALGORITHM
    )


def uniform_noise(shape: tf.Tensor, seed: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    """Uniform numbers in [0, 1), the same with and without XLA.

    The bits of `stateless_uniform` agree between the two, the floats made of them do
    not: compiled and plain training would see different noise.
    """
    bits = _random_bits(shape, seed)
    return tf.cast(tf.bitwise.right_shift(bits, 8), dtype) * 2.0**-24


def normal_noise(shape: Any, seed: tf.Tensor, dtype: Any) -> tf.Tensor:
    """Standard normal numbers, the same with and without XLA."""
    return normal_of_bits(_random_bits(shape, seed), dtype)


def normal_of_bits(bits: tf.Tensor, dtype: Any) -> tf.Tensor:
    """Maps uint32 bits to standard normal numbers, finite for all bits."""
    # The middle of 2^23 cells of (0, 1). That is exact in float32; with one bit more,
    # the highest would round to 1, whose quantile is infinite.
    cell = tf.cast(tf.bitwise.right_shift(bits, 9), dtype)
    return tf.math.ndtri((cell + 0.5) * 2.0**-23)


def _random_bits(shape: Any, seed: tf.Tensor) -> tf.Tensor:
    return tf.random.stateless_uniform(
        shape, seed, minval=None, maxval=None, dtype=tf.uint32, alg=_NOISE_ALGORITHM
    )


def check_positive_scale(role: str, scale: tf.Tensor) -> None:
    """Raises a ValueError if a user's network gives a scale that is not positive."""
    lowest = float(tf.reduce_min(scale))
    if not lowest > 0.0:
        raise ValueError(
            f"The {role}'s second output is a scale and must be positive, got "
            f"{lowest:g}; give it a softplus activation (exp(0.5 * x) if it is a log "
            "variance), or return one output and let the model add its own scale."
        )


def shape_text(shape: Any) -> str:
    """Returns a shape in the form of the messages: `[batch, 8, 8, 1]`."""
    sides = ("batch" if side is None else str(side) for side in shape)
    return f"[{', '.join(sides)}]"
