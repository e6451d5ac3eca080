"""Custom gradients that end with the graphs that they are part of."""

import contextlib
import functools
import itertools
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf
from tensorflow.python.framework import ops

__all__ = ["custom_gradient", "gradients_held"]


def custom_gradient(function: Callable[..., Any]) -> Callable[..., Any]:
    """Does what `tf.custom_gradient` does, without keeping graphs for ever.

    Args:
        function: Maps tensors to a value and a function from its gradient to theirs.
    """
    decorated = tf.custom_gradient(function)

    @functools.wraps(function)
    def held(*arguments):
        with gradients_held():
            return decorated(*arguments)

    return held


@contextlib.contextmanager
def gradients_held() -> Iterator[None]:
    """Has the graph hold the gradients that are registered within it, in place of TF.

    TensorFlow registers a function for each custom gradient in a graph, for ever, and
    the function holds the graph: with it the model, and all of its memory.
    """
    if tf.executing_eagerly():
        yield
        return
    registered = ops.gradient_registry._registry
    known = len(registered)
    try:
        yield
    finally:  # a trace that fails leaves a graph, too
        for name, entry in itertools.islice(registered.items(), known, None):
            function = entry["type"]
            if name.startswith("CustomGradient-") and not isinstance(function, _Held):
                _hold(function)
                entry["type"] = _Held(function)


def _hold(function: Callable[..., Any]) -> None:
    # Any of the graphs around it may be asked for the gradient, and be the last one.
    graph = tf.compat.v1.get_default_graph()
    while hasattr(graph, "outer_graph"):  # not the process's own, which never ends
        if not hasattr(graph, "_aef_tfp_gradients"):
            graph._aef_tfp_gradients = []
        graph._aef_tfp_gradients.append(function)
        graph = graph.outer_graph


class _Held:
    """A function that graphs hold."""

    def __init__(self, function: Callable[..., Any]):
        self._reference = weakref.ref(function)

    def __call__(self, *arguments: Any) -> Any:
        function = self._reference()
        if function is None:
            raise RuntimeError("The graph that this gradient belongs to is gone.")
        return function(*arguments)
