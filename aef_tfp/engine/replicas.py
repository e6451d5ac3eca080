"""What the replicas of a strategy have to do together, within `strategy.run`."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

__all__ = ["agreed", "num_replicas", "place_in_batch", "replica_id", "summed"]


def num_replicas() -> int:
    """Returns how many replicas share a batch here; 1 without a strategy."""
    return tf.distribute.get_strategy().num_replicas_in_sync


def replica_id() -> Any:
    """Returns which of them this is; 0 outside of them."""
    context = tf.distribute.get_replica_context()
    return 0 if context is None else context.replica_id_in_sync_group


def summed(values: Sequence[tf.Tensor]) -> Sequence[tf.Tensor]:
    """Sums tensors over the replicas; outside of them there is nothing to sum."""
    context = tf.distribute.get_replica_context()
    if context is None or num_replicas() == 1:
        return values
    sums = list(values)
    # Those of one dtype travel together.
    for dtype in dict.fromkeys(value.dtype for value in values):
        places = [i for i, value in enumerate(values) if value.dtype == dtype]
        parts = [values[i] for i in places]
        parts = context.all_reduce(tf.distribute.ReduceOp.SUM, parts)
        for i, part in zip(places, parts, strict=True):
            sums[i] = part
    return sums


def place_in_batch(x: tf.Tensor) -> tuple[Any, tf.Tensor]:
    """Returns where this replica's examples begin, and how many all hold.

    Args:
        x: This replica's part of the batch, `[n, ...]`.

    Returns:
        The place, None on a single device, and the size of the whole batch.
    """
    size = tf.shape(x)[0]
    replicas = num_replicas()
    if replicas == 1:
        return None, size
    replica = replica_id()
    [sizes] = summed([size * tf.one_hot(replica, replicas, dtype=size.dtype)])
    return tf.reduce_sum(sizes[:replica]), tf.reduce_sum(sizes)


def agreed(values: Sequence[tf.Tensor], share: tf.Tensor) -> list[tf.Tensor]:
    """Returns values that are equal on all replicas.

    Args:
        values: Floats, of which it is the mean by examples, or counts and flags, of
            which there is no mean: they are the first replica's.
        share: This replica's share of the batch's examples.
    """
    if num_replicas() == 1:
        return list(values)
    replica = replica_id()

    def part(value):
        if value.dtype.is_floating:
            # A mean over no example is not zero.
            weight = tf.cast(share, value.dtype)
            return tf.where(weight > 0, weight * value, tf.zeros_like(value))
        value = tf.cast(value, tf.int64)
        return tf.where(replica == 0, value, tf.zeros_like(value))

    sums = summed([part(value) for value in values])
    return [
        tf.cast(total, value.dtype) for total, value in zip(sums, values, strict=True)
    ]
