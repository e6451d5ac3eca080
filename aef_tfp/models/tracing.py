"""How functions become graphs."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from aef_tfp.collector import collector_paused

__all__ = ["traced"]


def traced(function: Callable[..., Any], **arguments: Any) -> Any:
    """Returns a `tf.function`, traced without what costs seconds and finds nothing.

    Nothing here branches or loops on tensors by Python statements, and Keras rewrites
    no layer either, so that AutoGraph would have nothing to do.

    Args:
        function: Function or method.
        **arguments: Of `tf.function`.
    """
    # Python enters the function only to trace it.
    return tf.function(
        collector_paused()(function),
        reduce_retracing=True,
        autograph=False,
        **arguments,
    )
