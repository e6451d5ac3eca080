"""What TFP computes again and again unless it is told not to."""

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf
from tensorflow_probability import bijectors as tfb

__all__ = ["OncePerGraph", "chain", "with_plain_ranks"]


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


def chain(bijectors: Sequence[tfb.Bijector]) -> tfb.Bijector:
    """Returns `tfb.Chain(bijectors)`, equal to itself alone.

    TFP's cache asks for a bijector's hash in each call. That of a `tfb.Chain` goes
    through all that is in it, and prints the arrays it finds: more than half of an
    eager density, a seventh of the time to trace a training step. Like a bijector that
    declares no parameters, this one has its identity for a hash.

    Args:
        bijectors: From data to base.
    """
    return with_plain_ranks(tfb.Chain(bijectors, parameters={"instance": object()}))


def with_plain_ranks(bijector: tfb.Bijector) -> tfb.Bijector:
    """Returns the bijector, which can be printed now.

    TFP computes the ranks of a chain's events in NumPy, and to print them asks whether
    those of both sides are equal. NumPy's answer is an array where one side is a pair
    and the other is not.

    Args:
        bijector: A chain; it is changed.
    """
    for name in ("_forward_min_event_ndims", "_inverse_min_event_ndims"):
        # Past the bijector's own way to set an attribute, which wraps lists.
        vars(bijector)[name] = tf.nest.map_structure(int, vars(bijector)[name])
    return bijector
