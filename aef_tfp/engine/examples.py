"""Events out of whatever `fit` accepts as data."""

import itertools
import math
from collections.abc import Iterable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from aef_tfp.engine.arguments import checked_count
from aef_tfp.engine.refusals import Refusals

__all__ = [
    "as_arrays",
    "check_ends",
    "check_is_read_once",
    "check_reading",
    "first_examples",
    "in_batches",
    "in_tuples",
    "num_trained",
    "refuse_masked",
    "refuse_not_dense",
    "unpack_batch",
]


def as_arrays(x: Any) -> Any:
    """Returns array-likes that Keras takes, of pandas and the like, as NumPy arrays."""
    is_one = isinstance(x, (np.ndarray, tf.Tensor)) or not hasattr(x, "__array__")
    return x if is_one else np.asarray(x)


def refuse_masked(x: Any) -> None:
    """Refuses arrays of NumPy with masked values, which Keras would take as they are.

    Raises:
        ValueError: If there are such values.
    """
    if np.ma.is_masked(x):
        raise ValueError(
            f"Events must be whole, got {np.ma.count_masked(x)} masked values; fill "
            "them in, x.filled(value), or leave these events out."
        )


def refuse_not_dense(name: str, x: Any) -> None:
    """Refuses tensors that NumPy and networks do not take.

    Args:
        name: What the message calls them.
        x: Anything.

    Raises:
        ValueError: If it is ragged or sparse.
    """
    if isinstance(x, (tf.RaggedTensor, tf.SparseTensor)):
        raise ValueError(
            f"{name} must be a dense array, got a {type(x).__name__}; bring them to "
            "one shape, and call x.to_tensor() or tf.sparse.to_dense(x)."
        )


def check_reading(x: Any, **options: Any) -> None:
    """Checks how data are to be read, which Keras does in part only.

    Args:
        x: The data.
        **options: Of `fit`, `evaluate` and `predict`, `batch_size` and steps among
            them.

    Raises:
        ValueError: If a count is below 1, or there is a batch size for batches.
    """
    frequency = options.get("validation_freq", 1)
    is_count = isinstance(frequency, (int, np.integer)) and frequency >= 1
    if not is_count and not isinstance(frequency, list):
        raise ValueError(
            "validation_freq must be an integer of at least 1, or a list of epochs, "
            f"got {frequency!r}."
        )
    for name in (
        "batch_size",
        "steps",
        "steps_per_epoch",
        "validation_steps",
        "validation_batch_size",
    ):
        if options.get(name) is not None:
            checked_count(name, options[name])
    size = options.get("batch_size")
    if size is not None and not isinstance(x, (np.ndarray, tf.Tensor)):
        raise ValueError(
            f"batch_size is for arrays, got {size} for a {type(x).__name__}, whose "
            "batches are what it gives: leave it out."
        )


def num_trained(count: int, validation_split: Any) -> int:
    """Returns how many of an array's events are trained on, as Keras splits them.

    Args:
        count: Events of the array.
        validation_split: Share that is held out.

    Raises:
        ValueError: If nothing is left to train on, or nothing is held out.
    """
    trained = math.floor(count * (1.0 - validation_split))
    if not 0 < trained < count:
        raise ValueError(
            f"validation_split of {validation_split!r} leaves {trained} of {count} "
            "images to train on; take another, or pass validation_data."
        )
    return trained


def check_is_read_once(name: str, x: Any, count: int, steps: int | None) -> None:
    """Refuses to read a generator to its end more than once.

    Keras would go on with the first two batches alone, which it has kept.

    Args:
        name: What the message calls the data.
        x: The data.
        count: How often they are to be read.
        steps: Batches of each reading; None until the end.

    Raises:
        ValueError: If it is a generator, and there is no number of steps.
    """
    if isinstance(x, Iterator) and steps is None and count > 1:
        which = "validation_steps" if name == "validation_data" else "steps_per_epoch"
        raise ValueError(
            f"{name}: a generator can be read to its end but once, not in {count} "
            f"epochs; pass {which} if it goes on, or a data set, e.g. "
            "tf.data.Dataset.from_generator(function, ...)."
        )


def check_ends(name: str, x: Any, steps: int | None) -> None:
    """Refuses to read data to their end that have none: Keras would never return.

    Args:
        name: What the message calls the data.
        x: The data.
        steps: Batches of each reading; None until the end.

    Raises:
        ValueError: If they say that they are endless, and there is no number of steps.
    """
    is_endless = (
        int(x.cardinality()) == tf.data.INFINITE_CARDINALITY
        if isinstance(x, tf.data.Dataset)
        else isinstance(x, keras.utils.PyDataset) and x.num_batches is None
    )
    if is_endless and steps is None:
        options = {"fit": "steps_per_epoch", "validation_data": "validation_steps"}
        is_dataset = isinstance(x, tf.data.Dataset)
        otherwise = "leave out repeat()" if is_dataset else "give it a num_batches"
        raise ValueError(
            f"{name}: the data have no end, got an endless {type(x).__name__}; pass "
            f"{options.get(name, 'steps')}, or {otherwise}."
        )


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
            "weights, e.g. dataset.map(lambda image, label: image) or "
            "(image for image, label in batches)."
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


def in_batches(
    x: Any, batch_size: int | None, shuffle: bool = False
) -> tf.data.Dataset:
    """An array as Keras reads it, but for the float type that it would get.

    Args:
        x: `[n, *event_shape]`.
        batch_size: Examples per step; None is Keras's 32.
        shuffle: Whether each epoch has another order.
    """
    data = tf.data.Dataset.from_tensor_slices(x)
    if shuffle and len(x):
        data = data.shuffle(len(x))
    return data.batch(batch_size or 32)


def in_tuples(batches: Iterable[Any], refusals: Refusals) -> Iterator[Any]:
    """Batches of a generator as Keras wants them; labels are an error.

    So are other types than that of the first batch, to which TensorFlow casts: floats
    in [0, 1] would become integers, all 0.

    Args:
        batches: The generator.
        refusals: Keeps the errors, since it is TensorFlow that reads the batches.
    """
    former: np.dtype | None = None
    for batch in batches:
        with refusals.kept():
            x = as_arrays(unpack_batch(batch))
            refuse_masked(x)
            if not hasattr(x, "dtype"):
                raise ValueError(
                    f"A generator gives batches of images as arrays, got a "
                    f"{type(x).__name__}."
                )
            dtype = np.dtype(keras.backend.standardize_dtype(x.dtype))
            former = former or dtype
            # Among floats, what is lost is what the model loses.
            are_floats = dtype.kind == former.kind == "f"
            if not (are_floats or np.can_cast(dtype, former, "safe")):
                raise ValueError(
                    f"A generator gives batches of one type, got {dtype.name} after "
                    f"{former.name}; convert them, batch.astype('{former.name}'), if "
                    "all are in the same units."
                )
        yield (x,)
