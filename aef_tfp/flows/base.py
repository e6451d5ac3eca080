"""What a flow is, and how its data-dependent state is initialized."""

import inspect
from abc import abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import keras
import tensorflow as tf
from tensorflow_probability import bijectors as tfb

from aef_tfp.networks.batching import checked_density_dtype
from aef_tfp.networks.expansion import Expandable
from aef_tfp.networks.switch import Switch
from aef_tfp.networks.tracking import InCheckpoints

__all__ = [
    "Flow",
    "adapt_forward",
    "adapt_inverse",
    "build_for",
    "checked_flow",
    "keeping_adapted",
    "naming",
]

_KEEPS = Switch("keeping_adapted")


def keeping_adapted(is_on: bool = True) -> AbstractContextManager[None]:
    """Within it, initialization leaves alone what is not at its start any more."""
    return _KEEPS.set(is_on)


def are_kept(is_set: bool) -> bool:
    """Returns whether weights that were set, if they were, are left as they are."""
    return bool(_KEEPS) and is_set


class Flow(InCheckpoints, keras.layers.Layer):
    """A Keras layer with a bijector (abstract).

    A subclass creates its weights when it is constructed, or in `build`, and returns
    from `bijector` a view of them.

    Its dtype is the variable dtype of the policy that it is given, or of the global
    one: under `mixed_bfloat16` a flow computes in float32, and so do its
    log-determinants. As a layer it takes and returns float32 there. Half precision is
    refused with a ValueError.
    """

    def __init__(self, **kwargs):
        dtype = checked_density_dtype(type(self).__name__, kwargs.pop("dtype", None))
        super().__init__(dtype=dtype, **kwargs)

    def build(self, input_shape):
        """Notes the shape `[batch, *event]` of its inputs; the weights are there."""

    @property
    @abstractmethod
    def bijector(self) -> tfb.Bijector:
        """Stateless bijector from base (`forward`) to data that reads this layer."""

    def call(self, x):
        """Maps base `[..., *event]` to data of the same shape."""
        return self.bijector.forward(x)

    def compute_output_shape(self, input_shape):
        """Returns the shape that the bijector makes of the input's."""
        shape = self.bijector.forward_event_shape(tf.TensorShape(input_shape))
        return tuple(shape.as_list())


def naming(layer: keras.layers.Layer) -> Any:
    """Returns a scope in which the paths of new layers' weights begin with a name.

    Keras opens it around `build` and `add_weight`, but not around a constructor, where
    layers are made whose weights are there at once.

    Args:
        layer: Its name is known once `keras.layers.Layer.__init__` has run.
    """
    return keras.name_scope(layer.name, caller=layer)


def build_for(layer: Any, input_shape: Sequence[int | None]) -> None:
    """Builds a layer for inputs of a shape, unless it has been.

    Without that, Keras's summary does not know a layer's shapes.

    Args:
        layer: Any layer.
        input_shape: `[batch, *event]`.
    """
    has_no_shape = layer.get_build_config() is None
    # Their weights are there before, so that building them changes nothing else.
    if not layer.built or (has_no_shape and isinstance(layer, (Flow, Expandable))):
        layer.build(tuple(input_shape))


def adapt_inverse(flow: Any, y: tf.Tensor) -> tf.Tensor:
    """Initializes a flow so that `inverse(y)` is normalized, and returns that.

    Args:
        flow: A flow; one without data-dependent state (without `adapt_inverse`) is only
            passed through.
        y: Data `[batch, *event]`.

    Returns:
        `flow.bijector.inverse(y)` after the initialization.
    """
    if hasattr(flow, "adapt_inverse"):
        return flow.adapt_inverse(y)
    return flow.bijector.inverse(tf.identity(y))


def adapt_forward(flow: Any, x: tf.Tensor) -> tf.Tensor:
    """Initializes a flow so that `forward(x)` is normalized, and returns that."""
    if hasattr(flow, "adapt_forward"):
        return flow.adapt_forward(x)
    return flow.bijector.forward(tf.identity(x))


def checked_flow(flow: Any) -> Any:
    """Returns a layer with a `.bijector`; raises a ValueError for anything else."""
    # Looked up without asking for it, which a flow that is not built may not answer.
    has_bijector = inspect.getattr_static(flow, "bijector", None) is not None
    if not isinstance(flow, keras.layers.Layer) or not has_bijector:
        raise ValueError(
            "A flow must be 'maf', 'iaf', 'none' or a Keras layer with a `bijector` "
            f"attribute, got {repr(flow).partition(chr(10))[0]}."
        )
    return flow
