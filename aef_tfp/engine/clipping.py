"""Clipping of gradients as a Keras optimizer asks, once, and where it belongs."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

__all__ = [
    "clipping",
    "loss_scale",
    "num_steps",
    "updating_optimizer",
    "without_clipping",
]

_SETTINGS = ("clipnorm", "clipvalue", "global_clipnorm")


def updating_optimizer(optimizer: keras.Optimizer) -> keras.Optimizer:
    """Returns the optimizer that updates, within one that scales the loss."""
    return getattr(optimizer, "inner_optimizer", optimizer)


def num_steps(optimizer: keras.Optimizer) -> keras.Variable:
    """Returns the count of steps, each of those whose gradients are accumulated.

    `optimizer.iterations` counts updates alone, so that noise that follows from it
    would be the same in all steps of one update.
    """
    return updating_optimizer(optimizer).variables[0]


def loss_scale(optimizer: keras.Optimizer) -> Any:
    """Returns what the optimizer multiplies the loss by; None if it does not."""
    if (
        updating_optimizer(optimizer) is optimizer
        and optimizer.loss_scale_factor is None
    ):
        return None
    return tf.convert_to_tensor(optimizer.scale_loss(1.0), tf.float32)


def clipping(optimizer: keras.Optimizer, norm: tf.Tensor) -> Callable[[list], list]:
    """Returns what clips gradients by the optimizer's present settings.

    Args:
        optimizer: Has at most one of `global_clipnorm`, `clipnorm`, `clipvalue`, or
            scales the loss for one that has.
        norm: The global norm of all gradients.

    Returns:
        Maps gradients, tensors or None, to clipped ones.
    """
    optimizer = updating_optimizer(optimizer)
    most, of_each, value = (
        optimizer.global_clipnorm,
        optimizer.clipnorm,
        optimizer.clipvalue,
    )

    def clip_one(gradient: Any) -> Any:
        if gradient is None:
            return None
        if _limits(of_each, gradient):
            return tf.clip_by_norm(gradient, of_each)
        return tf.clip_by_value(gradient, -value, value) if value else gradient

    def clip(gradients: list) -> list:
        if _limits(most, norm):
            return tf.clip_by_global_norm(gradients, most, use_norm=norm)[0]
        return [clip_one(gradient) for gradient in gradients]

    return clip


def _limits(most: float | None, value: tf.Tensor) -> bool:
    """Whether a norm is limited: TensorFlow multiplies by an infinite limit."""
    return most is not None and 0.0 < most <= float(value.dtype.max)


@contextlib.contextmanager
def without_clipping(optimizer: keras.Optimizer) -> Iterator[None]:
    """Within it, the optimizer takes gradients as they are."""
    with having(updating_optimizer(optimizer), **dict.fromkeys(_SETTINGS)):
        yield


@contextlib.contextmanager
def having(optimizer: keras.Optimizer, **settings: Any) -> Iterator[None]:
    """Within it, the optimizer has these settings."""
    former = {name: getattr(optimizer, name) for name in settings}
    for name, value in settings.items():
        setattr(optimizer, name, value)
    try:
        yield
    finally:
        for name, value in former.items():
            setattr(optimizer, name, value)
