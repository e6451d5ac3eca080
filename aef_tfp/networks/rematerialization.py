"""Less memory for a gradient: inner activations computed a second time, not kept."""

from collections.abc import Callable
from contextlib import AbstractContextManager

import tensorflow as tf

from aef_tfp.networks.switch import Switch

__all__ = ["recomputed", "rematerializing"]

_IS_ON = Switch("rematerializing")


def rematerializing(is_on: bool = True) -> AbstractContextManager[None]:
    """Within it, layers that know how to keep their inputs only for the gradient.

    Outside they keep all, since a gradient of a recomputed gradient, which forward mode
    takes as well, is not to be had.

    Args:
        is_on: Whether they do.
    """
    return _IS_ON.set(is_on)


def recomputed(function: Callable[[tf.Tensor], tf.Tensor], x: tf.Tensor) -> tf.Tensor:
    """Returns `function(x)`; while `rematerializing`, one that keeps `x` alone."""
    return tf.recompute_grad(function)(x) if _IS_ON else function(x)
