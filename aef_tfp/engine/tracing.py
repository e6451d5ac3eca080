"""How functions become graphs, and that graphs end with their model."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf
from keras.src.backend.common.stateless_scope import in_stateless_scope
from tensorflow.python.eager import context

from aef_tfp.bijectors.reuse import cache_of_graph
from aef_tfp.memory import collector_paused
from aef_tfp.networks.gradients import gradients_held

__all__ = ["AnySize", "as_traced", "forget_graphs", "traced", "tracing"]

# Attribute of an instance.
_GRAPHS = "_graphs"


@contextlib.contextmanager
def tracing() -> Iterator[None]:
    """Around the making of a graph: no collector, and nothing that outlives the graph.

    What TFP and TensorFlow keep for the process would otherwise hold each model that
    was ever traced: 200 MB for each, to the end. See `cache_of_graph`, and
    `gradients_held`.
    """
    with collector_paused(), cache_of_graph(), gradients_held():
        yield


@contextlib.contextmanager
def as_traced() -> Iterator[None]:
    """Within it, functions run as they were traced.

    Before its first run TensorFlow improves a graph (by "Grappler"). Of a training step
    on CPUs that takes 0.8 s (the paper's small networks) to 5 s (the residual ones),
    and the steps are as fast without. TensorFlow's own switch is for the process.
    """
    eager = context.context()
    former = eager.function_call_options
    config = tf.compat.v1.ConfigProto.FromString(former.config_proto_serialized)
    config.graph_options.rewrite_options.disable_meta_optimizer = True
    options = context.FunctionCallOptions(former.executor_type, config)
    eager.function_call_options = options
    try:
        yield
    finally:
        eager.function_call_options = former


class AnySize:
    """A `tf.function` whose graphs leave open how many events there are.

    TensorFlow by itself traces for the first batch as it is, and for any other once
    more: a last batch is seldom full. That is a second for an encoder, and three for
    stacked flows. Within another graph nothing is left open that is known there.

    Args:
        function: A `tf.function`.
    """

    def __init__(self, function: Any):
        self._function = function
        self._kinds: set[Any] = set()

    # A function of the user's that AutoGraph rewrites calls this: it would try, too.
    @tf.autograph.experimental.do_not_convert
    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        if tf.executing_eagerly() and not tf.config.functions_run_eagerly():
            leaves = [_as_open(leaf) for leaf in tf.nest.flatten([arguments, keywords])]
            kind = tuple(leaves)
            if all(map(_is_plain, leaves)) and kind not in self._kinds:
                args, kwargs = tf.nest.pack_sequence_as([arguments, keywords], leaves)
                self._function.get_concrete_function(*args, **kwargs)
                self._kinds.add(kind)
        return self._function(*arguments, **keywords)


def _as_open(value: Any) -> Any:
    """What to trace a value as: a batch of any size. Vectors are seeds, and stay."""
    if not isinstance(value, tf.Tensor):
        return value
    if value.shape.rank < 2:
        return tf.TensorSpec(value.shape, value.dtype)
    return tf.TensorSpec([None, *value.shape[1:]], value.dtype)


def _is_plain(leaf: Any) -> bool:
    """Whether it is of a kind that needs no more; TensorFlow knows the others."""
    return leaf is None or isinstance(leaf, (tf.TensorSpec, bool, int, float, str))


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
        return AnySize(
            tf.function(
                tracing()(function),
                reduce_retracing=True,
                autograph=False,
                **self._arguments,
            )
        )

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        return self._alone(*arguments, **keywords)

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        if instance is None:
            return self
        method = self._function.__get__(instance)
        if in_stateless_scope():
            # A graph would hold this scope's values for weights, now and later.
            return method
        # Past the instance's own way to set an attribute, which would track it.
        graphs = vars(instance).setdefault(_GRAPHS, {})
        if self not in graphs:
            graphs[self] = self._graph_of(method)
        return graphs[self]


def forget_graphs(instance: Any) -> None:
    """Lets an instance's traced methods be traced anew: what they read has changed."""
    vars(instance).pop(_GRAPHS, None)


def traced(function: Callable[..., Any], **arguments: Any) -> Any:
    """Returns a `tf.function`, traced without what costs seconds and finds nothing.

    Args:
        function: Function or method.
        **arguments: Of `tf.function`.
    """
    return _Traced(function, arguments)
