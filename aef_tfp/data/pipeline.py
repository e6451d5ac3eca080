"""Batches of images: `tf.data` pipelines over an array in memory, or mapped into it."""

import numbers
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

__all__ = ["evaluation_batches", "training_batches"]

_INT64_MAX = np.iinfo(np.int64).max

# Batches made ahead of the step that takes them.
_PREFETCHED = 4


def training_batches(
    images: np.ndarray,
    batch_size: int,
    *,
    seed: int,
    start_step: int = 0,
    flips: bool = False,
) -> tf.data.Dataset:
    """An endless sequence of batches in an order that only the seed decides.

    Every epoch is a new permutation of the images, and epochs follow each other without
    a gap: a batch may hold the end of one and the beginning of the next. Batch t is a
    function of `(images, batch_size, seed, t)` and `flips` alone, so a run that resumes
    at step t passes `start_step=t` and goes on exactly where it stopped, at the cost of
    one permutation.

    Under a `tf.distribute` strategy the batch is the global one: the replicas take
    different parts of it, which together are the batch of a run on one device. So no
    image is seen by two workers in one epoch.

    An array in memory is copied once. An `np.memmap` is read as the batches need it:
    the same batches, from images that need not fit into memory. It must not change
    meanwhile.

    Example:
        >>> images = np.zeros([100, 8, 8, 1], np.uint8)
        >>> batches = training_batches(images, 32, seed=1)
        >>> batches.element_spec.shape
        TensorShape([32, 8, 8, 1])

    Args:
        images: `[n, H, W, C]`, uint8, n at least 1.
        batch_size: How many images a batch holds: at least 1. It may exceed n.
        seed: From 0 to 2**63 - 1. Every value gives another order.
        start_step: The index t of the first batch: at least 0.
        flips: Whether to flip each image left to right with probability 1/2, anew in
            every batch. The order of the images is the same either way.

    Returns:
        Batches `[batch_size, H, W, C]`, uint8.

    Raises:
        ValueError: If an argument is not as described.
    """
    _check_images(images)
    batch_size = _integer("batch_size", batch_size, 1)
    seed = _integer("seed", seed, 0)
    start_step = _integer("start_step", start_step, 0)
    num_images = len(images)
    first_epoch, first_position = divmod(start_step * batch_size, num_images)

    def order(epoch: tf.Tensor) -> tf.Tensor:
        """The images of one epoch in their order, from where the first batch begins."""
        # Sorting random keys gives every permutation the same chance.
        # `tf.random.experimental.index_shuffle` would need no sort, but its few rounds
        # of a cipher on short keys leave the epochs of one seed alike.
        # Epochs count down from -1, so that no key is also the noise of a model that
        # draws from (seed, step).
        keys = tf.random.stateless_uniform(
            [num_images],
            seed=tf.stack([tf.constant(seed, tf.int64), -1 - epoch]),
            minval=None,
            maxval=None,
            dtype=tf.int64,
            alg="philox",  # the same numbers on every kind of device
        )
        start = tf.where(epoch == first_epoch, tf.constant(first_position, tf.int64), 0)
        return tf.argsort(keys, stable=True)[start:]

    indices = tf.data.Dataset.range(first_epoch, _INT64_MAX).map(order)
    indices = indices.rebatch(batch_size, drop_remainder=True)
    batches = indices.map(_gather(images))
    if flips:

        def flipped(step: tf.Tensor, batch: tf.Tensor) -> tf.Tensor:
            # Seeds count down from -1 here, so that no key is also one of the order, or
            # the noise of a model.
            coins = tf.random.stateless_uniform(
                [batch_size],
                seed=tf.stack([tf.constant(-1 - seed, tf.int64), step]),
                minval=None,
                maxval=None,
                dtype=tf.int32,
                alg="philox",
            )
            heads = tf.reshape(coins < 0, [-1, 1, 1, 1])
            return tf.where(heads, tf.reverse(batch, [2]), batch)

        batches = batches.enumerate(start_step).map(flipped)
    return _finished(batches)


def _gather(images: np.ndarray) -> Callable[[tf.Tensor], tf.Tensor]:
    """A function from indices `[b]` to images `[b, H, W, C]`."""
    if isinstance(images, np.memmap):

        def read(index: np.ndarray) -> np.ndarray:
            return images[index]

        def gather(index: tf.Tensor) -> tf.Tensor:
            batch = tf.numpy_function(read, [index], tf.uint8)
            return tf.ensure_shape(batch, [*index.shape, *images.shape[1:]])

        return gather
    # The host holds the images: on a GPU, every batch would have to come back.
    with tf.device("CPU:0"):
        source = tf.constant(images)
    return lambda index: tf.gather(source, index)


def evaluation_batches(images: np.ndarray, batch_size: int) -> tf.data.Dataset:
    """One pass over the images, in their order.

    An `np.memmap` is read as the batches need it.

    Example:
        >>> images = np.zeros([5, 8, 8, 1], np.uint8)
        >>> [len(batch) for batch in evaluation_batches(images, 2)]
        [2, 2, 1]

    Args:
        images: `[n, H, W, C]`, uint8, n at least 1.
        batch_size: How many images a batch holds: at least 1. The last one holds the
            remainder.

    Returns:
        Batches `[up to batch_size, H, W, C]`, uint8.

    Raises:
        ValueError: If an argument is not as described.
    """
    _check_images(images)
    batch_size = _integer("batch_size", batch_size, 1)
    if isinstance(images, np.memmap):
        indices = tf.data.Dataset.range(len(images)).batch(batch_size)
        return _finished(indices.map(_gather(images)))
    with tf.device("CPU:0"):
        dataset = tf.data.Dataset.from_tensor_slices(images)
    return _finished(dataset.batch(batch_size))


def _finished(dataset: tf.data.Dataset) -> tf.data.Dataset:
    options = tf.data.Options()
    # A strategy cuts every batch into one part per replica. With DATA each worker takes
    # its own parts; with OFF, each would go through all parts of every batch, one part
    # a step: all workers would train on the same images.
    options.experimental_distribute.auto_shard_policy = (
        tf.data.experimental.AutoShardPolicy.DATA
    )
    # There is nothing to tune: a step takes hundreds of times as long as its batch. And
    # the tuner sleeps twice as long each time, up to a minute, without always hearing
    # that its iterator is to go: the end of `fit` could take as long as all of it.
    options.autotune.enabled = False
    return dataset.prefetch(_PREFETCHED).with_options(options)


def _check_images(images: np.ndarray) -> None:
    if not isinstance(images, np.ndarray):
        raise ValueError(
            "images must be a uint8 array [n, H, W, C], got"
            f" {type(images).__name__}: convert it with np.asarray"
        )
    if images.dtype != np.uint8 or images.ndim != 4:
        raise ValueError(
            "images must be a uint8 array [n, H, W, C], got"
            f" {images.dtype} of shape {images.shape}: convert or reshape it"
        )
    if 0 in images.shape:
        raise ValueError(
            "images must hold at least one image of at least one pixel, got shape"
            f" {images.shape}: check how they were selected"
        )


def _integer(name: str, value: Any, low: int) -> int:
    integral = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not integral or not low <= value <= _INT64_MAX:
        raise ValueError(
            f"{name} must be an integer from {low} to 2**63 - 1, got {value!r}:"
            " pass another"
        )
    return int(value)
