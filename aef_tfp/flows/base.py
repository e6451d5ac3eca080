"""What a flow is, and how its data-dependent state is initialized."""

from abc import abstractmethod
from contextlib import AbstractContextManager
from typing import Any

import keras
import tensorflow as tf
from tensorflow_probability import bijectors as tfb

from aef_tfp.networks import density_dtype
from aef_tfp.networks.switch import Switch

__all__ = [
    "Flow",
    "adapt_forward",
    "adapt_inverse",
    "checked_flow",
    "keeping_adapted",
]

_KEEPS = Switch("keeping_adapted")


def keeping_adapted(is_on: bool = True) -> AbstractContextManager[None]:
    """Within it, initialization leaves alone what is not at its start any more."""
    return _KEEPS.set(is_on)


def are_kept(is_set: bool) -> bool:
    """Returns whether weights that were set, if they were, are left as they are."""
    return bool(_KEEPS) and is_set


class Flow(keras.layers.Layer):
    """A Keras layer with a bijector (abstract).

    A subclass creates its weights when it is constructed, or in `build`, and returns
    from `bijector` a view of them. Its dtype defaults to the policy's variable dtype.
    """

    def __init__(self, **kwargs):
        super().__init__(dtype=kwargs.pop("dtype", None) or density_dtype(), **kwargs)

    @property
    @abstractmethod
    def bijector(self) -> tfb.Bijector:
        """Stateless bijector from base (`forward`) to data that reads this layer."""

    def call(self, x):
        """Maps base `[..., *event]` to data of the same shape."""
        return self.bijector.forward(x)


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
    if not isinstance(flow, keras.layers.Layer) or not hasattr(flow, "bijector"):
        raise ValueError(
            "A flow must be 'maf', 'iaf', 'none' or a Keras layer with a `bijector` "
            f"attribute, got {flow!r}."
        )
    return flow
