"""Checks of arguments."""

import os
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from aef_tfp.networks.counts import checked_count

__all__ = [
    "check_fits_memory",
    "check_positive_scale",
    "checked_count",
    "checked_event_shape",
    "checked_seed",
    "is_number",
    "shape_text",
    "type_text",
    "with_known_sides",
]


def checked_event_shape(event_shape: Sequence[int]) -> tuple[int, ...]:
    """Returns an event shape after a check.

    Raises:
        ValueError: If it is neither `(H, W, C)` nor `(n,)` with sides of at least 1.
    """
    is_one = not isinstance(event_shape, Iterable)
    shape: tuple[Any, ...] = (event_shape,) if is_one else tuple(event_shape)
    are_sides = all(isinstance(side, (int, np.integer)) and side >= 1 for side in shape)
    if not are_sides or is_one or len(shape) not in (1, 3):
        hint = ""
        if are_sides and is_one:
            hint = f"; a vector is ({event_shape},)"
        elif are_sides and len(shape) == 2:
            hint = f"; channels along one axis are ({shape[0]}, 1, {shape[1]})"
        raise ValueError(
            "event_shape must be (height, width, channels) or (n,) with sides of at "
            f"least 1, got {event_shape!r}{hint}."
        )
    return tuple(map(int, shape))


def is_number(value: Any) -> bool:
    """Whether a value is one real number, and no boolean; NaN and infinity are."""
    try:
        array = np.asarray(value)
    except ValueError:
        # Lists of several lengths.
        return False
    return array.ndim == 0 and array.dtype.kind in "iuf"


def checked_seed(value: Any, least: int = 0) -> int:
    """Returns a seed after a check.

    Raises:
        ValueError: If `value` is not an integer of at least `least` and of 64 bits:
            higher ones would be the same as lower ones.
    """
    seed = checked_count("seed", value, least)
    if seed >= 2**64:
        raise ValueError(f"seed must be below 2**64, got {value!r}.")
    return seed


def check_fits_memory(what: str, num_bytes: int, remedy: str) -> None:
    """Refuses what cannot end well before any memory is asked for.

    Args:
        what: What takes the memory, with the number that is too large.
        num_bytes: What it takes at least.
        remedy: What to do.

    Raises:
        ValueError: If it is more than half of the machine's memory.
    """
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if num_bytes > memory // 2:
        raise ValueError(
            f"{what} would take at least {num_bytes // 2**30:,} GB, with "
            f"{memory // 2**30:,} GB in this machine; {remedy}."
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


def type_text(x: Any) -> str:
    """Returns what an array holds, `bool`, or the type of what is none, `NoneType`."""
    if hasattr(x, "dtype"):
        return x.dtype.name
    array = np.asarray(x)
    return array.dtype.name if array.ndim else type(x).__name__


def with_known_sides(x: tf.Tensor, event_shape: Sequence[int]) -> tf.Tensor:
    """Returns a tensor of a graph with a known shape; the graph checks it as it runs.

    Args:
        x: `[batch, *event_shape]`, as far as its shape is known.
        event_shape: Shape of one event.
    """
    if x.shape[1:].is_fully_defined():
        return x
    return tf.ensure_shape(x, [None, *event_shape])
