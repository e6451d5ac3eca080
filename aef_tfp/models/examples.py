"""Events out of whatever `fit` accepts as data."""

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

__all__ = ["as_arrays", "first_examples", "in_tuples", "unpack_batch"]


def as_arrays(x: Any) -> Any:
    """Returns array-likes that Keras takes, of pandas and the like, as NumPy arrays."""
    is_one = isinstance(x, (np.ndarray, tf.Tensor)) or not hasattr(x, "__array__")
    return x if is_one else np.asarray(x)


def unpack_batch(data: Any) -> Any:
    """Returns the events of one batch; a label beside them is an error.

    Raises:
        ValueError: If the batch is a pair or a dictionary.
    """
    is_sequence = isinstance(data, (tuple, list)) and len(data) > 0
    if is_sequence and all(part is None for part in data[1:]):
        return data[0]
    if isinstance(data, (tuple, list, dict)):
        kind = (
            f"a dictionary with {', '.join(map(repr, data))}"
            if isinstance(data, dict)
            else f"a tuple of {len(data)}"
        )
        raise ValueError(
            f"The model takes images alone, got {kind} per batch; drop labels and "
            "weights, e.g. dataset.map(lambda image, label: image)."
        )
    return data


def first_examples(x: Any, num_examples: int) -> tuple[Any, Any]:
    """Returns the first examples of whatever `fit` accepts as data, and the data.

    Args:
        x: Array or tensor `[n, *event]`; a `tf.data.Dataset` of batches, also one
            distributed by a strategy; a `keras.utils.PyDataset`, a generator, or
            another collection of batches.
        num_examples: How many to take at most.

    Returns:
        The examples, and what gives all data in place of `x`: a generator can be read
        but once.

    Raises:
        ValueError: If the data hold nothing.
    """
    if isinstance(x, (np.ndarray, tf.Tensor)):
        return x[:num_examples], x
    if isinstance(x, keras.utils.PyDataset):
        return _taken(_batches(x), num_examples)[0], x
    iterator = iter(x)
    examples, batches = _taken(iterator, num_examples)
    if isinstance(x, Iterator):
        return examples, _rejoined(batches, iterator)
    return examples, x


def _batches(x: keras.utils.PyDataset) -> Iterator[Any]:
    count = x.num_batches
    numbers = itertools.count() if count is None else range(count)
    return (x[number] for number in numbers)


def _taken(batches: Iterator[Any], num_examples: int) -> tuple[tf.Tensor, list[Any]]:
    parts: list[tf.Tensor] = []
    taken: list[Any] = []
    count = 0
    for batch in batches:
        taken.append(batch)
        local = tf.distribute.get_strategy().experimental_local_results(
            unpack_batch(batch)
        )
        parts.extend(map(tf.convert_to_tensor, local))
        count += sum(len(part) for part in local)
        if count >= num_examples:
            break
    if not parts:
        raise ValueError("The data set is empty: it gave no batch.")
    return tf.concat(parts, axis=0)[:num_examples], taken


def _rejoined(taken: list[Any], rest: Iterator[Any]) -> Iterator[Any]:
    """A generator, since Keras knows no other iterators."""
    while taken:
        yield taken.pop(0)
    yield from rest


def in_tuples(batches: Iterable[Any]) -> Iterator[Any]:
    """Batches of a generator as Keras wants them; labels are an error."""
    for batch in batches:
        yield (unpack_batch(batch),)
