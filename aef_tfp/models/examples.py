"""Images out of whatever `fit` accepts as data."""

from typing import Any

import numpy as np
import tensorflow as tf

__all__ = ["first_examples", "unpack_batch"]


def unpack_batch(data: Any) -> Any:
    """Returns the images of one batch; a label beside them is an error.

    Raises:
        ValueError: If the batch is a pair or a dictionary.
    """
    if isinstance(data, (tuple, list)) and len(data) == 1:
        return data[0]
    if isinstance(data, (tuple, list, dict)):
        kind = (
            f"a dictionary with {', '.join(map(repr, data))}"
            if isinstance(data, dict)
            else f"a tuple of {len(data)}"
        )
        raise ValueError(
            f"The model takes images alone, got {kind} per batch; drop the labels, "
            "e.g. dataset.map(lambda image, label: image)."
        )
    return data


def first_examples(x: Any, num_examples: int) -> Any:
    """Returns the first examples of whatever `fit` accepts as data.

    Args:
        x: Array or tensor `[n, *event]`, a `tf.data.Dataset` of batches, or a data set
            distributed by a strategy.
        num_examples: How many to take at most.

    Raises:
        ValueError: If the data hold nothing.
        TypeError: If `x` is of another kind, e.g. a generator that would be used up.
    """
    if isinstance(x, (np.ndarray, tf.Tensor)):
        return x[:num_examples]
    if not isinstance(x, (tf.data.Dataset, tf.distribute.DistributedDataset)):
        raise TypeError(
            f"Cannot take the first examples of {type(x).__name__} without using it "
            "up; call model.adapt(batch) with one batch first."
        )
    parts, count = [], 0
    for batch in x:
        images = unpack_batch(batch)
        local = tf.distribute.get_strategy().experimental_local_results(images)
        parts.extend(local)
        count += sum(len(part) for part in local)
        if count >= num_examples:
            break
    if not parts:
        raise ValueError("The data set is empty: it gave no batch.")
    return tf.concat(parts, axis=0)[:num_examples]
