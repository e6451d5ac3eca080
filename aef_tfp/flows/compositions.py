"""Flows made of flows."""

from collections.abc import Iterable, Sequence
from typing import Any

import keras
import tensorflow as tf
from tensorflow_probability import bijectors as tfb

from aef_tfp.bijectors.reuse import chain
from aef_tfp.flows.base import (
    Flow,
    adapt_forward,
    adapt_inverse,
    build_for,
    checked_flow,
)
from aef_tfp.networks.expansion import Expandable

__all__ = ["Inverted", "Stack"]


@keras.saving.register_keras_serializable(package="aef_tfp")
class Stack(Expandable, Flow):
    """Composition of flows, the one next to the data first.

    Args:
        flows: Layers with a `.bijector`, in the order of `tfb.Chain`: `forward` runs
            through them from last to first.
        **kwargs: As in every Keras layer.

    Raises:
        ValueError: If `flows` is no list of flows.

    Example:
        >>> flow = Stack([PixelSquash(1e-6), ActNorm(1)])
        >>> flow.bijector.forward(tf.zeros([2, 8, 8, 1])).shape
        TensorShape([2, 8, 8, 1])
    """

    def __init__(self, flows: Sequence[Any], **kwargs):
        super().__init__(**kwargs)
        if not isinstance(flows, Iterable):
            raise ValueError(
                f"A Stack takes a list of flows, got a {type(flows).__name__}; give "
                "even a single one in a list, [flow]."
            )
        self.flows = [checked_flow(flow) for flow in flows]
        self.built = True

    def build(self, input_shape):
        """Builds the flows for inputs of the shape `[batch, *event]`."""
        # A flow that moves entries, such as a reshape, may change their shape.
        for flow in reversed(self.flows):
            build_for(flow, input_shape)
            input_shape = _shape_after(flow, input_shape)

    @property
    def _parts(self):
        return self.flows

    @property
    def bijector(self) -> tfb.Bijector:
        """Chain of the flows' bijectors."""
        return chain([flow.bijector for flow in self.flows])

    def adapt_inverse(self, y: tf.Tensor) -> tf.Tensor:
        """Initializes the flows from data to base; returns `inverse(y)`."""
        for flow in self.flows:
            y = adapt_inverse(flow, y)
        return y

    def adapt_forward(self, x: tf.Tensor) -> tf.Tensor:
        """Initializes the flows from base to data; returns `forward(x)`."""
        for flow in reversed(self.flows):
            x = adapt_forward(flow, x)
        return x

    def get_config(self):
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "flows": [keras.saving.serialize_keras_object(flow) for flow in self.flows],
        }

    @classmethod
    def from_config(cls, config):
        """Rebuilds the stack and its flows."""
        flows = [
            keras.saving.deserialize_keras_object(flow) for flow in config["flows"]
        ]
        return cls(**{**config, "flows": flows})


@keras.saving.register_keras_serializable(package="aef_tfp")
class Inverted(Expandable, Flow):
    """A flow with its directions exchanged.

    Args:
        flow: Any layer with a `.bijector`.
        **kwargs: As in every Keras layer.
    """

    def __init__(self, flow: Any, **kwargs):
        super().__init__(**kwargs)
        self.flow = checked_flow(flow)
        self.built = True

    def build(self, input_shape):
        """Builds the flow for inputs of the shape `[batch, *event]`."""
        build_for(self.flow, input_shape)

    @property
    def _parts(self):
        return [self.flow]

    @property
    def bijector(self) -> tfb.Bijector:
        """TFP's `Invert` of the flow's bijector."""
        return tfb.Invert(self.flow.bijector)

    def adapt_inverse(self, y: tf.Tensor) -> tf.Tensor:
        """Initializes the inner flow from its base; returns `inverse(y)`."""
        return adapt_forward(self.flow, y)

    def adapt_forward(self, x: tf.Tensor) -> tf.Tensor:
        """Initializes the inner flow from its data; returns `forward(x)`."""
        return adapt_inverse(self.flow, x)

    def get_config(self):
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "flow": keras.saving.serialize_keras_object(self.flow),
        }

    @classmethod
    def from_config(cls, config):
        """Rebuilds the flow."""
        flow = keras.saving.deserialize_keras_object(config["flow"])
        return cls(**{**config, "flow": flow})


def _shape_after(flow: Any, input_shape: Any) -> tuple[int | None, ...]:
    shape = flow.bijector.forward_event_shape(tf.TensorShape(input_shape))
    return tuple(shape.as_list())
