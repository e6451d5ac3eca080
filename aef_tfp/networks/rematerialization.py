"""Less memory for a gradient: inner activations computed a second time, not kept."""

import contextlib
import contextvars
from collections.abc import Callable, Iterator

import tensorflow as tf

__all__ = ["recomputed", "rematerializing"]

# A context variable: each replica of a strategy traces in a thread of its own.
_IS_ON = contextvars.ContextVar("rematerializing", default=False)


@contextlib.contextmanager
def rematerializing(is_on: bool = True) -> Iterator[None]:
    """Within it, layers that know how to keep their inputs only for the gradient.

    Outside they keep all, since a gradient of a recomputed gradient, which forward mode
    takes as well, is not to be had.

    Args:
        is_on: Whether they do.
    """
    token = _IS_ON.set(is_on)
    try:
        yield
    finally:
        _IS_ON.reset(token)


def recomputed(function: Callable[[tf.Tensor], tf.Tensor], x: tf.Tensor) -> tf.Tensor:
    """Returns `function(x)`; while `rematerializing`, one that keeps `x` alone."""
    return tf.recompute_grad(function)(x) if _IS_ON.get() else function(x)
