"""Clipping of gradients as a Keras optimizer asks, once, and where it belongs."""

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

__all__ = ["clip", "without_clipping"]

_SETTINGS = ("clipnorm", "clipvalue", "global_clipnorm")


def clip(optimizer: keras.Optimizer, gradients: list, norm: tf.Tensor) -> list:
    """Clips gradients by the optimizer's settings.

    Args:
        optimizer: Has at most one of `global_clipnorm`, `clipnorm`, `clipvalue`; its
            loss scale is respected.
        gradients: Tensors or None.
        norm: Their global norm.
    """
    factor = optimizer.loss_scale_factor or 1.0
    if optimizer.global_clipnorm:
        limit = optimizer.global_clipnorm * factor
        return tf.clip_by_global_norm(gradients, limit, use_norm=norm)[0]

    def clip_one(gradient: Any) -> Any:
        if gradient is None:
            return None
        if optimizer.clipnorm:
            return tf.clip_by_norm(gradient, optimizer.clipnorm * factor)
        if optimizer.clipvalue:
            limit = optimizer.clipvalue * factor
            return tf.clip_by_value(gradient, -limit, limit)
        return gradient

    return [clip_one(gradient) for gradient in gradients]


@contextlib.contextmanager
def without_clipping(optimizer: keras.Optimizer) -> Iterator[None]:
    """Within it, the optimizer takes gradients as they are."""
    former = {name: getattr(optimizer, name) for name in _SETTINGS}
    for name in _SETTINGS:
        setattr(optimizer, name, None)
    try:
        yield
    finally:
        for name, value in former.items():
            setattr(optimizer, name, value)
