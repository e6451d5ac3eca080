"""What TFP computes again and again unless it is told not to, and what it keeps."""

import contextlib
import contextvars
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import tensorflow as tf
from tensorflow_probability import bijectors as tfb
from tensorflow_probability.python.internal import cache_util

__all__ = [
    "Live",
    "OncePerGraph",
    "cache_of_graph",
    "chain",
    "one_evaluation",
    "with_plain_ranks",
]

_NOTHING: tuple[Any, Any, Any] = (None, None, None)

# What remembers something until the end of the eager evaluation under way; None outside
# of one.
_EVALUATION: contextvars.ContextVar[list["OncePerGraph"] | None] = (
    contextvars.ContextVar("evaluation", default=None)
)


@contextlib.contextmanager
def one_evaluation() -> Iterator[bool]:
    """Within it, weights stay as they are: eager code may reuse what it computed.

    Yields:
        Whether it begins here: eagerly, and within no other one. A graph is one
        evaluation by itself.
    """
    if not tf.executing_eagerly() or _EVALUATION.get() is not None:
        yield False
        return
    remembering: list[OncePerGraph] = []
    token = _EVALUATION.set(remembering)
    try:
        yield True
    finally:
        _EVALUATION.reset(token)
        for function in remembering:
            # TFP's cache leads from a tensor to its bijector: if that led back to the
            # tensor, both, and the weights, would never be freed.
            function._last = _NOTHING


@contextlib.contextmanager
def cache_of_graph() -> Iterator[None]:
    """Within a graph, TFP's cache is the graph's own, and ends with it.

    TFP has one cache for all bijectors of the process. It leads from a tensor of a
    graph to the bijector, so to the weights and to all graphs of the model, which hold
    the tensor: none of them would ever be freed.
    """
    if tf.executing_eagerly():
        yield
        return
    graph = tf.compat.v1.get_default_graph()
    if not hasattr(graph, "_aef_tfp_cache"):
        graph._aef_tfp_cache = cache_util.EphemeralDict()
    cache = vars(tfb.Bijector)["_cache"]
    storage, cache.storage = cache.storage, graph._aef_tfp_cache
    try:
        yield
    finally:
        cache.storage = storage


class OncePerGraph:
    """Calls a function once for the same tensor within a graph, or one evaluation.

    TFP asks a bijector for a value and for its log-determinant in two calls, and both
    need the conditioner. A compiler merges equal networks going forward, but not their
    backward passes, which start from different gradients: without this, training pays
    for the gradient of every network twice. And a network that drops units at random
    would not be the same one in both.

    Eagerly and outside of `one_evaluation` the function is called each time, since its
    weights may have changed and a gradient tape may have begun. Within one, the second
    call must not stand under a tape that the first was outside of; the same holds for
    graphs, and for TFP's own cache.

    Args:
        function: Maps a tensor to a structure of tensors.
    """

    def __init__(self, function: Callable[[Any], Any]):
        self._function = function
        self._last = _NOTHING

    def __call__(self, x: Any) -> Any:
        """Returns `function(x)`."""
        if tf.executing_eagerly():
            place = remembering = _EVALUATION.get()
            if remembering is None:
                return self._function(x)
            remembering.append(self)
        else:
            # A tensor made inside a loop or a branch is of no use outside of it.
            place = tf.compat.v1.get_default_graph()
        if self._last[0] is not x or self._last[1] is not place:
            self._last = (x, place, self._function(x))
        return self._last[2]


class Live(tfb.Bijector):
    """Mixin for bijectors of weights that change: TFP's cache never answers for others.

    The cache knows tensors by their identity, and would return what the weights of
    then made of them. So each eager call of `forward` or `inverse` from outside is of a
    copy. The log-determinant of a value that came out of the bijector itself is that of
    the call which it came from; so TFP's distributions go through the networks in the
    direction that is parallel.
    """

    def _call_forward(self, x, name, **kwargs):
        with one_evaluation() as begins, cache_of_graph():
            return super()._call_forward(_copied(x) if begins else x, name, **kwargs)

    def _call_inverse(self, y, name, **kwargs):
        with one_evaluation() as begins, cache_of_graph():
            return super()._call_inverse(_copied(y) if begins else y, name, **kwargs)

    def _call_forward_log_det_jacobian(self, x, event_ndims, name, **kwargs):
        with one_evaluation() as begins, cache_of_graph():
            if begins and not self._made(x, "_forward", kwargs):
                x = _copied(x)
            return super()._call_forward_log_det_jacobian(
                x, event_ndims, name, **kwargs
            )

    def _call_inverse_log_det_jacobian(self, y, event_ndims, name, **kwargs):
        with one_evaluation() as begins, cache_of_graph():
            if begins and not self._made(y, "_inverse", kwargs):
                y = _copied(y)
            return super()._call_inverse_log_det_jacobian(
                y, event_ndims, name, **kwargs
            )

    def _made(self, value, direction: str, kwargs) -> bool:
        """Whether the cache knows a value, as what the other direction gave."""
        if not all(map(tf.is_tensor, tf.nest.flatten(value))):
            return False
        _, other, _, _ = self._cache._get_or_create_edge(value, direction, kwargs)
        return bool(other)


def _copied(structure):
    return tf.nest.map_structure(
        lambda x: tf.identity(x) if tf.is_tensor(x) else x, structure
    )


# `tfb.Chain` itself is a composite tensor, which asks that all its parts are, too; TFP
# makes one of this base class where they are not.
class _LiveChain(Live, tfb.Chain.__bases__[0]):
    def copy(self, **overrides):
        """Returns a chain of the same arguments, but for those given."""
        # TFP takes the parameters, which stand for no arguments here.
        own = {
            "bijectors": self.bijectors,
            "validate_args": self.validate_args,
            "name": self.name,
        }
        return chain(**{**own, **overrides})


def chain(
    bijectors: Sequence[tfb.Bijector], validate_args: bool = False, name: str = "chain"
) -> tfb.Bijector:
    """Returns `tfb.Chain(bijectors)`, live and equal to itself alone.

    TFP's cache asks for a bijector's hash in each call. That of a `tfb.Chain` goes
    through all that is in it, and prints the arrays it finds: more than half of an
    eager density, a seventh of the time to trace a training step. Like a bijector that
    declares no parameters, this one has its identity for a hash.

    TFP's name of a chain is made of those of all its parts, and stands before the name
    of each operation that comes from them: a sixth of the time to trace a step, and
    more than 100 MB.

    Args:
        bijectors: From data to base.
        validate_args: As in every TFP bijector.
        name: Name of the operations.
    """
    return with_plain_ranks(
        _LiveChain(
            bijectors,
            validate_args=validate_args,
            parameters={"instance": object()},
            name=name,
        )
    )


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
