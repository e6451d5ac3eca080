"""How functions become graphs, and that graphs end with their model."""

import contextlib
import functools
import itertools
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf
from tensorflow.python.framework import ops
from tensorflow_probability import bijectors as tfb
from tensorflow_probability.python.internal import cache_util

from aef_tfp.memory import collector_paused

__all__ = ["traced", "tracing"]


@contextlib.contextmanager
def tracing() -> Iterator[None]:
    """Around the making of a graph: no collector, and nothing that outlives the graph.

    TFP has one cache for all bijectors of the process. It leads from a tensor of a
    graph to the bijector, so to the model and its graphs, which hold the tensor. And
    TensorFlow keeps the function of each custom gradient for ever, which holds the
    graph that it is part of. A model that was trained once took 200 MB to the end of
    the process. Here the cache ends with the trace, and the graph holds the functions.
    """
    cache = vars(tfb.Bijector)["_cache"]
    storage, cache.storage = cache.storage, cache_util.EphemeralDict()
    gradients = ops.gradient_registry._registry
    known = len(gradients)
    try:
        with collector_paused():
            yield
    finally:
        cache.storage = storage
        if not tf.executing_eagerly():
            _hold_custom_gradients(itertools.islice(gradients.items(), known, None))


def _hold_custom_gradients(entries) -> None:
    graph = tf.compat.v1.get_default_graph()
    graph._aef_tfp_gradients = held = getattr(graph, "_aef_tfp_gradients", [])
    for name, entry in entries:
        function = entry["type"]
        if name.startswith("CustomGradient-") and not isinstance(function, _Held):
            held.append(function)
            entry["type"] = _Held(function)


class _Held:
    """A function that somebody else holds."""

    def __init__(self, function: Callable[..., Any]):
        self._reference = weakref.ref(function)

    def __call__(self, *arguments: Any) -> Any:
        function = self._reference()
        if function is None:
            raise RuntimeError("The graph that this gradient belongs to is gone.")
        return function(*arguments)


class _Traced:
    """A function as a `tf.function`; as a method, one that its instance holds.

    `tf.function` by itself holds those of all instances in their class. The keys are
    weak, but the graphs hold the instances.
    """

    def __init__(self, function: Callable[..., Any], arguments: dict[str, Any]):
        self._function = function
        self._arguments = arguments
        functools.update_wrapper(self, function)

    @functools.cached_property
    def _alone(self) -> Any:
        return self._graph_of(self._function)

    def _graph_of(self, function: Callable[..., Any]) -> Any:
        # Nothing here branches or loops on tensors by Python statements, and Keras
        # rewrites no layer either, so that AutoGraph would have nothing to do. Python
        # enters the function only to trace it.
        return tf.function(
            tracing()(function),
            reduce_retracing=True,
            autograph=False,
            **self._arguments,
        )

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        return self._alone(*arguments, **keywords)

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        if instance is None:
            return self
        # Past the instance's own way to set an attribute, which would track it.
        graphs = vars(instance).setdefault("_graphs", {})
        if self not in graphs:
            graphs[self] = self._graph_of(self._function.__get__(instance))
        return graphs[self]


def traced(function: Callable[..., Any], **arguments: Any) -> Any:
    """Returns a `tf.function`, traced without what costs seconds and finds nothing.

    Args:
        function: Function or method.
        **arguments: Of `tf.function`.
    """
    return _Traced(function, arguments)
