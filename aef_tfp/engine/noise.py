"""Noise that is a function of a seed, whatever makes it and on however many devices."""

from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.python.ops.random_ops_util import get_key_counter_alg
from tensorflow_probability import distributions as tfd

from aef_tfp.engine.arguments import checked_seed

__all__ = [
    "fold_seed",
    "normal_noise",
    "normal_of_bits",
    "seeds_under",
    "split_seed",
    "standard_normal",
    "starting_at",
    "stateless_seed",
    "uniform_noise",
]

# TensorFlow's default depends on the device and on XLA: the same seed would give other
# noise.
_ALGORITHM = "philox"

# Philox is a function of a counter; each value of the counter gives so many numbers.
_NUMBERS_PER_COUNT = 4


def stateless_seed(seed: Any) -> tf.Tensor:
    """Returns the `[2]` seed of TensorFlow's stateless operations.

    Args:
        seed: Any integer of 64 bits, also as a tensor; None draws one from NumPy's
            global generator, which `keras.utils.set_random_seed` seeds, or, in a graph,
            from TensorFlow's whenever the graph runs. A stateless one, a pair, or one
            of `starting_at`, is returned as it is: who evaluates a set in batches gives
            each its place in the set.

    Raises:
        ValueError: If it is neither.
    """
    if isinstance(seed, np.ndarray):
        seed = seed.tolist()
    if _is_pair(seed):
        return tf.constant(seed, tf.int32)
    if isinstance(seed, tf.Tensor) and seed.dtype.is_integer:
        if seed.shape in ([2], [3]):
            return seed
        if seed.shape == []:
            return tf.bitcast(tf.cast(seed, tf.int64), tf.int32)
    if seed is None and not tf.executing_eagerly():
        # NumPy would draw but once, when the graph is made.
        return tf.random.uniform([2], tf.int32.min, tf.int32.max, tf.int32)
    if seed is None:
        seed = int(np.random.randint(2**63))
    seed = checked_seed(seed, least=-(2**63))
    low, high = seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF
    return tf.constant(np.array([low, high], np.uint32).view(np.int32))


def _is_pair(seed: Any) -> bool:
    """Whether it is what TensorFlow's stateless operations take, of 32 bits."""
    return (
        isinstance(seed, (tuple, list))
        and len(seed) == 2
        and all(isinstance(part, (int, np.integer)) for part in seed)
        and all(-(2**31) <= part < 2**31 for part in seed)
    )


def fold_seed(seed: tf.Tensor, number: Any) -> tf.Tensor:
    """Returns the seed of one of many streams of noise under a seed.

    Args:
        seed: Stateless seed, `[2]`, or `[3]` from `starting_at`.
        number: Which stream: an integer or a scalar integer tensor.

    Returns:
        A seed of the same shape.
    """
    folded = tf.random.experimental.stateless_fold_in(
        seed[:2], tf.cast(number, tf.int64), alg=_ALGORITHM
    )
    if seed.shape[0] == 2:
        return folded
    return tf.concat([folded, tf.cast(seed[2:], folded.dtype)], axis=0)


def split_seed(seed: tf.Tensor, count: int) -> list[tf.Tensor]:
    """Returns so many seeds, of the same shape, `[2]` or `[3]` from `starting_at`."""
    return tf.unstack(seeds_under(seed, count))


def seeds_under(seed: tf.Tensor, count: Any) -> tf.Tensor:
    """Returns what `split_seed` does as one tensor, `[count, 2]` or `[count, 3]`."""
    # Those of TensorFlow depend on the type, too.
    seeds = tf.random.split(tf.cast(seed[:2], tf.int32), count, alg=_ALGORITHM)
    if seed.shape[0] == 2:
        return seeds
    place = tf.tile(seed[None, 2:], [count, 1])
    return tf.concat([tf.cast(seeds, place.dtype), place], axis=1)


def starting_at(seed: tf.Tensor, example: tf.Tensor) -> tf.Tensor:
    """Returns the seed whose noise begins at a later example of the same noise.

    A replica that holds examples k to k + n of a batch draws, with k, exactly what one
    device would draw for them.

    Args:
        seed: Stateless seed, `[2]`, or `[3]` of this function, whose place is where
            `example` counts from.
        example: Scalar integer, the place k in the batch.

    Returns:
        `[3]` int64, for `fold_seed`, `uniform_noise` and `normal_noise`.
    """
    seed, place = tf.cast(seed, tf.int64), tf.cast(example, tf.int64)
    if seed.shape[0] == 3:
        place += seed[2]
    return tf.concat([seed[:2], place[None]], axis=0)


def uniform_noise(shape: Any, seed: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    """Uniform numbers in [0, 1), the same with and without XLA.

    The bits of `stateless_uniform` agree between the two, the floats made of them do
    not: compiled and plain training would see different noise.

    Args:
        shape: Shape of the noise, examples first.
        seed: Stateless seed, `[2]`, or `[3]` from `starting_at`.
        dtype: Of the result.
    """
    bits = _random_bits(shape, seed)
    return tf.cast(tf.bitwise.right_shift(bits, 8), dtype) * 2.0**-24


def normal_noise(shape: Any, seed: tf.Tensor, dtype: Any) -> tf.Tensor:
    """Standard normal numbers, the same with and without XLA; see `uniform_noise`."""
    return normal_of_bits(_random_bits(shape, seed), dtype)


def normal_of_bits(bits: tf.Tensor, dtype: Any) -> tf.Tensor:
    """Maps uint32 bits to standard normal numbers, finite for all bits."""
    # The middle of 2^23 cells of (0, 1). That is exact in float32; with one bit more,
    # the highest would round to 1, whose quantile is infinite.
    cell = tf.cast(tf.bitwise.right_shift(bits, 9), dtype)
    return tf.math.ndtri((cell + 0.5) * 2.0**-23)


def _random_bits(shape: Any, seed: tf.Tensor) -> tf.Tensor:
    if seed.shape[0] == 2:
        return tf.random.stateless_uniform(
            shape, seed, minval=None, maxval=None, dtype=tf.uint32, alg=_ALGORITHM
        )
    shape = tf.cast(shape, tf.int64)
    size = tf.reduce_prod(shape)
    before = seed[2] * tf.reduce_prod(shape[1:])
    # The counter goes to the group of numbers that the first one lies in.
    within = before % _NUMBERS_PER_COUNT
    counts = tf.cast(before // _NUMBERS_PER_COUNT, tf.uint64)
    # As TensorFlow does for this algorithm. Its operation by that name takes 32 bits of
    # a seed under XLA, without their sign.
    key, counter, algorithm = get_key_counter_alg(seed[:2], _ALGORITHM)
    # As many as the last place within a group asks for: XLA wants to know the number.
    bits = tf.raw_ops.StatelessRandomUniformFullIntV2(
        shape=(size + _NUMBERS_PER_COUNT - 1)[None],
        key=key,
        counter=counter + tf.stack([counts, tf.zeros_like(counts)]),
        alg=algorithm,
        dtype=tf.uint32,
    )
    return tf.reshape(tf.slice(bits, [within], [size]), shape)


def standard_normal(size: int, dtype: Any) -> tfd.Distribution:
    """Returns N(0, I) over vectors `[size]`."""
    zero = tf.zeros((), dtype)
    return tfd.Sample(tfd.Normal(zero, tf.ones_like(zero)), size)
