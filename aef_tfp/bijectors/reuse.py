"""Evaluating a conditioner once for a value and its log-determinant."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

__all__ = ["OncePerGraph"]


class OncePerGraph:
    """Calls a function once for the same tensor within a graph.

    TFP asks a bijector for a value and for its log-determinant in two calls, and both
    need the conditioner. A compiler merges equal networks going forward, but not their
    backward passes, which start from different gradients: without this, training pays
    for the gradient of every network twice.

    Eagerly the function is called each time, since its weights may have changed and a
    gradient tape may have begun. Within a graph the second call must not stand under a
    tape that the first was outside of; the same holds for TFP's own cache.

    Args:
        function: Maps a tensor to a structure of tensors.
    """

    def __init__(self, function: Callable[[Any], Any]):
        self._function = function
        self._last: tuple[Any, Any, Any] = (None, None, None)

    def __call__(self, x: Any) -> Any:
        """Returns `function(x)`."""
        if tf.executing_eagerly():
            return self._function(x)
        # A tensor made inside a loop or a branch is of no use outside of it.
        graph = tf.compat.v1.get_default_graph()
        if self._last[0] is not x or self._last[1] is not graph:
            self._last = (x, graph, self._function(x))
        return self._last[2]
